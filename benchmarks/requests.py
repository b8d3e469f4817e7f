"""What a worker is asked, in every measurement alike."""

from __future__ import annotations

import json

__all__ = ["ID", "MARK", "call_request"]

ID = b"%026d"
"""All ids have 26 characters, as ULIDs do, so that frames have one length."""

MARK = "#" * 26
"""Where the id of a request, of its lease, or of its job belongs in a frame."""


def call_request(function: str, size: int) -> bytes:
    """The JSON body of a call request, with ``size`` bytes of payload."""
    event = {
        "data": {"payload": "x" * size},
        "id": "01JDEVENT0000000000000000E",
        "name": function,
        "ts": 1750000000000,
    }
    return json.dumps(
        {
            "ctx": {
                "attempt": 0,
                "disable_immediate_execution": False,
                "env": "local",
                "fn_id": "7bd2ad6c-2c4f-5d1f-8bd5-4a1ee1e5fb63",
                "max_attempts": 4,
                "run_id": "01JDRUN000000000000000000R",
                "stack": {"stack": [], "current": 0},
                "step_id": "step",
                "use_api": False,
            },
            "event": event,
            "events": [event],
            "steps": {},
            "use_api": False,
        }
    ).encode()
