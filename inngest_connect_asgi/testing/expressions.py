"""As much of CEL as equality needs.

Inngest filters events with CEL expressions. Here an expression is one or more
``left == right`` joined by ``&&``, each side a literal or a path such as
``event.data.id``. Anything else counts as true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

__all__ = ["matches"]

_PATH = re.compile(r"(event|async)((?:\.\w+)+)")
_STRING = re.compile(r"'([^'\\]*)'|\"([^\"\\]*)\"")


def matches(expression: str | None, variables: Mapping[str, object]) -> bool:
    """Whether ``expression`` holds where it names ``event`` and ``async``."""
    for clause in (expression or "").split("&&"):
        sides = clause.split("==")
        if len(sides) != 2:
            continue
        try:
            left, right = (_value(side.strip(), variables) for side in sides)
        except ValueError:
            continue
        if left != right:
            return False
    return True


def _value(text: str, variables: Mapping[str, object]) -> object:
    if string := _STRING.fullmatch(text):
        return string[1] if string[1] is not None else string[2]
    if path := _PATH.fullmatch(text):
        value = variables.get(path[1])
        for name in path[2][1:].split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value
    return json.loads(text)
