"""How what went wrong is written down."""

from __future__ import annotations

import pytest

from inngest_connect_asgi.errors import (
    describe,
    format_traceback,
    last_line,
    one_line,
    quoted,
    scrubbed,
)

LONG = 300_000
"""Characters; a square of that is a quarter of an hour."""


class NoGroup(Exception):
    exceptions = ("a", "b")


class OddGroup(Exception):
    @property
    def exceptions(self) -> object:
        raise RuntimeError("not yet")


class Leaving(Exception):
    @property
    def exceptions(self) -> object:
        raise SystemExit

    def __str__(self) -> str:
        raise SystemExit


class OddCause(Exception):
    __cause__ = "x"  # type: ignore[assignment]


@pytest.mark.parametrize("kind", [NoGroup, OddGroup, Leaving, OddCause])
def test_an_odd_exception_is_described_all_the_same(kind: type[Exception]) -> None:
    error = kind("text")
    text = "its text could not be made" if kind is Leaving else "text"
    assert describe(error) == f"{kind.__name__}: {text}"
    assert kind.__name__ in format_traceback(error)


def test_an_interrupt_is_let_through() -> None:
    class Interrupted(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    class InterruptedGroup(Exception):
        @property
        def exceptions(self) -> object:
            raise KeyboardInterrupt

    for error in (Interrupted(), InterruptedGroup()):
        with pytest.raises(KeyboardInterrupt):
            describe(error)


def test_causes_are_told_a_few_of_them_and_no_circle() -> None:
    first, second = ValueError("first"), TypeError("second")
    first.__cause__, second.__cause__ = second, first
    assert describe(first) == "ValueError: first (from TypeError: second)"
    group = NoGroup("several")
    group.exceptions = (KeyError("one"), KeyError("other"))  # type: ignore[assignment]
    assert describe(group) == "NoGroup: several (from KeyError: 'one')"
    assert describe(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    "text",
    [
        "//?" + ":" * LONG + "x",
        "//?" + ":x" * (LONG // 2),
        "http://" + "@" * LONG,
        "authorization" * (LONG // 13),
        "authorization: " + "basic " * (LONG // 6),
        "signkey-" * (LONG // 8),
        "signkey-a-" + "b" * LONG,
        "?" * LONG,
        "//" * (LONG // 2),
    ],
    ids=range(9),
)
@pytest.mark.timeout(60)
def test_no_text_takes_the_square_of_its_length(text: str) -> None:
    assert len(scrubbed(text)) <= len(text) + len("***")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see http://host/path?key=1.", "see http://host/path?***."),
        ("(http://host/?a=b)", "(http://host/?***)"),
        ("http://host/?...", "http://host/?..."),
        ("http://me:secret@host/", "http://***@host/"),
        ("really?", "really?"),
    ],
)
def test_queries_and_passwords_are_hidden(text: str, shown: str) -> None:
    assert scrubbed(text) == shown


def test_lines_and_lengths() -> None:
    assert one_line("a\nb\x00") == "a\\nb\\x00"
    assert one_line("x" * 20, 10) == "x" * 10 + "..."
    assert quoted("x" * 300) == repr("x" * 199 + "…")
    assert quoted(b"\xff") == repr("\\xff")
    assert last_line("Traceback\n  File\nValueError: x\n") == "ValueError: x"
    assert last_line("") == ""
