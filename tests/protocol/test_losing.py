"""The core in virtual time: what the loss of a connection means."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inngest_connect_asgi.messages import (
    CLOSING,
    FAILURE_REASONS,
    RECONNECT_REASONS,
)
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from ..simulation import Simulation


def test_two_unanswered_heartbeats_are_a_dead_link() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(29.9)
    assert link in sim.queued
    sim.advance(0.2)
    assert link not in sim.queued
    assert sim.state.last_error == "the gateway answered no heartbeat"
    assert sim.starts  # at once


def test_a_link_that_lived_is_replaced_at_once_and_one_that_did_not_is_not() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(2)
    sim.lose(link)
    sim.advance(0)
    assert sim.starts
    link = sim.connect()
    sim.lose(link)
    sim.advance(0)
    assert not sim.starts
    sim.advance(1)
    assert sim.starts


def test_a_hopeless_reason_is_explained_and_retried_slowly() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(60)
    link = sim.connect()
    sim.advance(5)
    sim.lose(link, "connect_too_many_apps_per_connection")
    assert "more apps" in str(sim.state.last_error)
    sim.advance(13)
    assert not sim.starts
    sim.advance(15)
    assert sim.starts


def drained(sim: Simulation, link: int) -> None:
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.advance(1)


def silent(sim: Simulation, link: int) -> None:
    sim.advance(30.1)


def stalled(sim: Simulation, link: int) -> None:
    sim.advance(3)
    sim.pong()


@pytest.mark.parametrize(
    ("happen", "reason"),
    [
        (drained, "gateway_closing"),
        (lambda sim, link: sim.lose(link, "connect_gateway_closing"), CLOSING),
        (silent, "heartbeat_timeout"),
        (lambda sim, link: sim.lose(link), "connection_lost"),
        (lambda sim, link: sim.lose(link, "anything at all"), "connection_lost"),
        (stalled, "app_stalled"),
    ],
)
def test_a_reconnect_is_counted_by_its_reason(
    happen: Callable[[Simulation, int], None], reason: str
) -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect()
    happen(sim, link)
    assert sim.state.reconnects_by == {}
    sim.advance(1)
    sim.connect()
    assert sim.state.reconnects_by == {reason: 1}
    assert sim.state.failures_by == {}
    assert reason in RECONNECT_REASONS


def refused(sim: Simulation) -> None:
    link = next(iter(sim.starts))
    del sim.starts[link]
    sim.lose(link, "the start API could not be reached: refused")


def gateway_is_away(sim: Simulation) -> None:
    sim.start_answer()
    link = next(iter(sim.opening))
    del sim.opening[link]
    sim.lose(link, "the gateway answered 502")


def closing_in_the_handshake(sim: Simulation) -> None:
    sim.start_answer()
    sim.receive(sim.open(), wire.GATEWAY_CLOSING)


@pytest.mark.parametrize(
    ("happen", "reason"),
    [
        (refused, "api_unreachable"),
        (lambda sim: sim.advance(10), "api_unreachable"),
        (lambda sim: sim.start_answer(503), "api_rejected"),
        (lambda sim: sim.start_answer(401), "api_rejected"),
        (lambda sim: sim.start_answer(body=b"garbage"), "api_rejected"),
        (gateway_is_away, "handshake_failed"),
        (closing_in_the_handshake, "gateway_closing"),
    ],
)
def test_an_attempt_that_fails_is_counted_by_its_reason(
    happen: Callable[[Simulation], None], reason: str
) -> None:
    sim = Simulation()
    happen(sim)
    assert sim.state.failures_by == {reason: 1}
    assert reason in FAILURE_REASONS
    sim.advance(30)
    sim.starts = dict(list(sim.starts.items())[-1:])
    sim.connect()
    assert sim.state.reconnects_by == {}


def test_a_gateway_without_a_group_closes_like_any_other() -> None:
    sim = Simulation()
    sim.start_answer(group="")
    link = sim.open()
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.ready(link)
    assert sim.core.links.live is not None
    sim.core.links.live.gateway_group = None
    sim.receive(link, wire.GATEWAY_CLOSING)
    assert not sim.core.losing.excluded
    sim.advance(10)
    assert sim.starts


def test_another_is_sought_once() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.core.connecting.connect(sim.now)
    sim.do(sim.core.tick(sim.now))
    attempts = dict(sim.starts)
    assert attempts
    sim.receive(link, wire.GATEWAY_CLOSING)
    assert sim.core.losing.retry_at is None
    sim.lose(link)
    assert sim.core.losing.retry_at is None
    sim.advance(1)
    assert sim.starts == attempts


def test_the_loss_of_a_link_that_was_done_with_is_no_failure() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.advance(5)
    sim.connect()
    assert link in sim.closing
    sim.lose(link)
    assert not sim.starts
    assert sim.core.losing.last_error is None


def test_a_close_that_is_not_answered_is_given_up() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.advance(5)
    sim.connect()
    assert link in sim.closing
    sim.advance(2)
    assert sim.core.links.get(link) is None
    assert sim.core.losing.last_error is None


def test_a_phase_that_takes_too_long_is_named() -> None:
    sim = Simulation()
    sim.start_answer()
    sim.open()
    sim.advance(5)
    assert sim.core.losing.last_error == "timed out while greeting"


def test_a_live_connection_that_is_lost_while_another_is_made_waits_for_that() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.core.connecting.connect(sim.now)
    sim.do(sim.core.tick(sim.now))
    attempts = dict(sim.starts)
    sim.lose(link)
    assert sim.core.losing.retry_at is None
    assert sim.starts == attempts
    assert sim.state.connection == "reconnecting"
