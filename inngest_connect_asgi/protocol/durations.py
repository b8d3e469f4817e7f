"""Durations as Go prints them: ``10s``, ``1m30s``, ``1.5s``, ``500ms``.

And, beyond Go, with the days and weeks that Inngest knows.
"""

from __future__ import annotations

import re

__all__ = ["parse_duration"]

_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,  # U+00B5, which Go prints
    "μs": 1e-6,  # U+03BC, which Go accepts
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
_TERM = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|[smhdw])")
_MAX_LENGTH = 64


def parse_duration(text: str) -> float:
    """Parse a duration in the format of Go's ``time.ParseDuration``.

    Returns:
        Seconds.

    Raises:
        ValueError: ``text`` is not such a duration, or is negative.
    """
    if text == "0":
        return 0.0
    seconds = 0.0
    position = 0
    if 0 < len(text) <= _MAX_LENGTH:
        while match := _TERM.match(text, position):
            seconds += float(match[1]) * _UNITS[match[2]]
            position = match.end()
    if position == 0 or position != len(text):
        raise ValueError(f"not a duration: {text[:_MAX_LENGTH]!r}")
    return seconds
