"""The core in virtual time: what is logged, and when."""

from __future__ import annotations

import logging

from inngest_connect_asgi.messages import Log
from inngest_connect_asgi.protocol.actions import Send, Tell
from inngest_connect_asgi.protocol.link import Link
from inngest_connect_asgi.protocol.telling import (
    STATE_INTERVAL,
    WARNINGS_REMEMBERED,
    Telling,
)
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import STATE_EVERY

from ..simulation import Simulation, lease


def test_nonsense_is_counted_and_logged_once_and_the_link_goes_on() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(100):
        sim.do(sim.core.received(link, b"\xff\xff\xff", sim.now))
        sim.do(sim.core.received(link, "text", sim.now))
        sim.receive(link, 77)
        sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST, b"\xff\xff")
        sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST)
        sim.request(link, "r", app="unknown")
    sim.request(link, "good")
    sim.write(link)
    assert sim.requested == {"good": 1}
    assert len([text for text in sim.logs if text.startswith("Ignored")]) == 6
    sim.advance(1)
    assert sim.state.malformed == 500


def test_the_state_is_in_the_time_of_a_clock_that_was_set() -> None:
    sim = Simulation()
    sim.connect()
    sim.core.telling.epoch = 1000.0
    sim.advance(11)
    assert 1010.0 < sim.state.at <= 1000.0 + sim.now
    assert sim.state.heartbeat_sent_at is not None
    assert sim.state.heartbeat_sent_at == 1010.0


def test_an_error_is_logged_once_while_it_stays_the_same() -> None:
    telling = Telling(0.0)
    for error in ("refused", "refused", "another"):
        telling.error("Could not connect", error, 0.0)
    telling.begin_anew()
    telling.error("Could not connect", "refused", 0.0)
    texts = [action.message.message for action in telling.take()]  # type: ignore[union-attr]
    assert texts == [
        "Could not connect: refused",
        "Could not connect: another",
        "Could not connect: refused",
    ]


def test_what_the_network_can_make_up_fills_no_memory() -> None:
    telling = Telling(0.0)
    for number in range(WARNINGS_REMEMBERED + 10):
        telling.warn(f"key {number}", "text", 0.0)
    assert len(telling.take()) == WARNINGS_REMEMBERED


def test_what_became_of_a_request_says_where_to_look() -> None:
    telling = Telling(100.0)
    telling.log_of(lease("job"), logging.WARNING, "It is lost", 1.0, size=3)
    (action,) = telling.take()
    assert isinstance(action, Tell)
    assert isinstance(action.message, Log)
    assert action.message.message.startswith("It is lost (")
    assert action.message.at == 101.0
    assert action.message.extra["request_id"] == "job"
    assert action.message.extra["size"] == 3


def test_the_state_is_told_soon_or_at_once_and_never_later_than_it_was_to_be() -> None:
    telling = Telling(0.0)
    telling.touch(1.0)
    soon = telling.state_at
    assert soon is not None
    assert 1.0 < soon < 1.5
    telling.touch(1.1)
    assert telling.state_at == soon
    telling.touch(1.1, at_once=True)
    assert telling.state_at == 1.1
    telling.told_state(2.0, last=False)
    assert telling.state_at == 2.0 + STATE_EVERY
    telling.touch(2.0)
    assert telling.state_at == soon + 1.0
    telling.told_state(3.0, last=True)
    assert telling.state_at is None


def test_times_are_told_as_unix_time() -> None:
    assert Telling(100.0).wall(1.0) == 101.0
    assert Telling(100.0).wall(None) is None


def test_a_frame_of_no_payload_is_sent_over_its_link() -> None:
    telling = Telling(0.0)
    telling.send(Link(7, 0.0), wire.WORKER_READY)
    (send,) = telling.take()
    assert isinstance(send, Send)
    assert send.link == 7
    assert wire.ConnectMessage.FromString(send.data).kind == wire.WORKER_READY
    assert telling.take() == []


def test_a_warning_is_told_with_the_state_however_often_it_comes() -> None:
    telling = Telling(0.0)
    telling.warn("key", "text", 1.0)
    assert telling.state_at == 1.0 + STATE_INTERVAL
    telling.told_state(2.0, last=True)
    telling.warn("key", "text", 3.0)
    assert telling.state_at == 3.0 + STATE_INTERVAL
    assert len(telling.take()) == 1
