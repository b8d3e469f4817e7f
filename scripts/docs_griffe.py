"""Docstrings are written in reStructuredText's manner; the site wants Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":\w+:`~?([^`]+)`")
LITERAL_BLOCK = re.compile(r"::\n\n(?= )")


class Markdown(griffe.Extension):
    """Converts the few constructs that the docstrings use."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            text = ROLE.sub(r"`\1`", obj.docstring.value)
            obj.docstring.value = LITERAL_BLOCK.sub(":\n\n", text)
