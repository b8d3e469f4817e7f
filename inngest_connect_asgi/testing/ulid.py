"""ULIDs, the ids of connections, requests, leases, runs and events."""

from __future__ import annotations

import re
import secrets
import time

__all__ = ["new", "valid"]

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# 26 characters hold 130 bits: the first one carries only three.
_PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)


def new(timestamp: float | None = None) -> str:
    """Return a ULID for ``timestamp``, in Unix seconds, or for now."""
    milliseconds = int((time.time() if timestamp is None else timestamp) * 1000)
    number = milliseconds << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def valid(text: str) -> bool:
    return _PATTERN.fullmatch(text) is not None
