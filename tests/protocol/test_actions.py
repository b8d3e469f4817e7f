from __future__ import annotations

import pytest

from inngest_connect_asgi.messages import Result
from inngest_connect_asgi.protocol import frames
from inngest_connect_asgi.protocol.actions import (
    Flush,
    Open,
    Send,
    SendReply,
    StartLink,
)
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import DONE, lease

RESULT = Result(lease("job"), DONE)


def test_an_acknowledgement_is_a_frame_that_bears_a_delivery() -> None:
    assert not Send(1, b"").acknowledges
    assert Send(1, b"", lease("job").delivery).acknowledges
    assert not SendReply(1, RESULT).acknowledges


def test_a_reply_is_encoded_when_it_is_written() -> None:
    reply = SendReply(1, RESULT)
    assert reply.delivery == RESULT.lease.delivery
    frame = frames.decode(reply.data)
    assert frame.kind == wire.WORKER_REPLY
    response = wire.SDKResponse.FromString(frame.payload)
    assert (response.request_id, response.body) == ("job", DONE.body)


@pytest.mark.parametrize(
    "action",
    [
        StartLink(1, b"", "secret"),
        Open(1, "ws://secret"),
        Send(1, b"secret"),
        Flush(RESULT, "secret"),
    ],
)
def test_no_secret_is_in_a_repr(action: object) -> None:
    assert "secret" not in repr(action)


def test_a_flush_is_about_the_delivery_of_its_result() -> None:
    assert Flush(RESULT, None).delivery == RESULT.lease.delivery
