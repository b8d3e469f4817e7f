from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from inngest_connect_asgi.protocol.durations import parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("30s", 30.0),
        ("1m0s", 60.0),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("250µs", 0.00025),
        ("2h45m0.5s", 9900.5),
        (".5s", 0.5),
        ("0s", 0.0),
        ("0", 0.0),
        ("1d", 86400.0),
        ("2w", 1209600.0),
    ],
)
def test_what_go_prints(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "10", "s", "ten seconds", "-1s", "1s ", " 1s", "1s!", "1e3s", "9" * 99]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration(text)


@given(st.text())
@example("\u0661s")  # a digit, but not Go's
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert seconds >= 0
    assert re.fullmatch(r"[0-9.a-zµμ]+", text)


@given(st.integers(0, 10**15))
def test_whole_nanoseconds(nanoseconds: int) -> None:
    assert parse_duration(f"{nanoseconds}ns") == pytest.approx(nanoseconds / 1e9)
