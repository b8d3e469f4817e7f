"""Durations that the SDK or a test wrote down."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone

from ..protocol.durations import parse_duration

__all__ = ["interval", "seconds_until"]


def seconds_until(text: str) -> float:
    """Return the seconds from now to an RFC 3339 date, or in a duration.

    A date that has passed is zero seconds away.

    Raises:
        ValueError: the text is neither.
    """
    try:
        return parse_duration(text)
    except ValueError:
        # Python 3.10 does not read the "Z".
        moment = datetime.fromisoformat(re.sub(r"[Zz]$", "+00:00", text))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max(0.0, moment.timestamp() - time.time())


def interval(text: str) -> float:
    """Return seconds, or 0.0 where the text is no duration."""
    try:
        return parse_duration(text)
    except ValueError:
        return 0.0
