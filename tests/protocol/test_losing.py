"""The core in virtual time: what the loss of a connection means."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import pytest

from inngest_connect_asgi.messages import Log
from inngest_connect_asgi.protocol.actions import Abort, Tell
from inngest_connect_asgi.protocol.leases import Leases
from inngest_connect_asgi.protocol.link import Link, Phase
from inngest_connect_asgi.protocol.links import Links
from inngest_connect_asgi.protocol.losing import (
    DRAIN_JITTER,
    GATEWAY_CLOSING,
    HOPELESS,
    RECONNECT_FIRST,
    STABLE_AFTER,
    Losing,
)
from inngest_connect_asgi.protocol.telling import STATE_INTERVAL, Telling
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import (
    API_REJECTED,
    CLOSING,
    CONNECTION_LOST,
    FAILURE_REASONS,
    HANDSHAKE_FAILED,
    HEARTBEAT_TIMEOUT,
    RECONNECT_REASONS,
)

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


class Alone:
    """Losses with no core around them."""

    def __init__(self) -> None:
        self.telling = Telling(0.0)
        self.links = Links(
            self.telling,
            Leases(5.0),
            withdraw=lambda link: None,
            gone=lambda link, now: None,
        )
        self.losing = Losing(27.0, self.telling, self.links, random.Random(1))

    def link(self, *phases: Phase, group: str | None = "group") -> Link:
        link = self.links.begin(0.0)
        for phase in phases:
            if phase is Phase.LIVE:
                self.links.go_live(link, 0.0)
            else:
                link.enter(phase, 0.0)
        link.gateway_group = group
        return link

    def live(self, group: str | None = "group") -> Link:
        return self.link(*HANDSHAKE, Phase.LIVE, group=group)

    def said(self) -> list[object]:
        """What was done, and what was logged, since this was last asked."""
        return [
            (action.message.level, action.message.message)
            if isinstance(action, Tell) and isinstance(action.message, Log)
            else action
            for action in self.telling.take()
        ]


HANDSHAKE = (Phase.OPENING, Phase.GREETING, Phase.SYNCING)


@pytest.mark.parametrize("lived", [0.99, 1.0, 60.0])
def test_a_closing_gateway_is_left_soon_where_the_connection_was_stable(
    lived: float,
) -> None:
    alone = Alone()
    losing = alone.losing
    for _ in range(4):
        # There were failures before.
        losing.lose(alone.link(group=None), "refused", 0.0)
    alone.telling.take()
    link = alone.live()
    losing.gateway_closing(link, lived)
    assert link.phase is Phase.RETIRING
    assert alone.links.live is None
    assert (losing.because, losing.excluded) == (CLOSING, {"group"})
    assert alone.telling.state_at == lived
    text = "The gateway is closing; moving to another one"
    assert alone.said() == [(logging.INFO, text)]
    assert losing.retry_at is not None
    assert (losing.retry_at - lived <= DRAIN_JITTER) == (lived >= STABLE_AFTER)


def test_a_live_connection_that_is_lost_is_logged_and_shown() -> None:
    alone = Alone()
    alone.losing.lose(alone.live(), "reset by peer", 60.0)
    text = "Lost the connection to Inngest: reset by peer; reconnecting"
    assert alone.said() == [(logging.WARNING, text)]
    assert alone.losing.last_error == "reset by peer"
    assert alone.losing.last_error_at == 60.0
    assert alone.losing.because == CONNECTION_LOST
    assert not alone.losing.failures_by
    assert (alone.losing.retry_at, alone.losing.excluded) == (60.0, {"group"})
    assert alone.telling.state_at == 60.0


def test_a_gateway_that_sends_everybody_away_is_not_left_by_all_at_once() -> None:
    alone = Alone()
    alone.losing.lose(alone.live(), GATEWAY_CLOSING, 60.0)
    assert alone.losing.retry_at is not None
    assert 60.0 < alone.losing.retry_at <= 60.0 + DRAIN_JITTER


@pytest.mark.parametrize(
    ("phases", "cause"), [((), API_REJECTED), (HANDSHAKE, HANDSHAKE_FAILED)]
)
def test_an_attempt_that_fails_is_aborted_logged_and_counted_by_its_phase(
    phases: tuple[Phase, ...], cause: str
) -> None:
    alone = Alone()
    link = alone.link(*phases)
    alone.losing.fail(link, "no gateway", 9.0)
    text = "Could not connect to Inngest; trying again: no gateway"
    assert alone.said() == [Abort(link.id), (logging.ERROR, text)]
    assert alone.losing.failures_by == {cause: 1}
    assert alone.losing.because == CONNECTION_LOST
    # Since it began, longer ago than the pause.
    assert alone.losing.retry_at == 9.0


@pytest.mark.parametrize(
    ("was_live", "reason", "hopeless"),
    [
        (False, "401", True),
        (False, next(iter(HOPELESS)), False),
        (True, next(iter(HOPELESS)), False),
        (True, "anything", True),
    ],
)
def test_what_only_a_person_can_mend_is_tried_again_at_the_cap(
    was_live: bool, reason: str, hopeless: bool
) -> None:
    alone = Alone()
    link = alone.live() if was_live else alone.link()
    alone.losing.lose(link, reason, 60.0, hopeless=hopeless)
    assert alone.losing.retry_at is not None
    since = 60.0 if was_live else 0.0
    assert max(60.0, since + 13.5) <= alone.losing.retry_at <= max(60.0, since + 27.0)
    alone.losing.lose(alone.link(), reason, 0.0, hopeless=hopeless)
    assert 13.5 <= alone.losing.retry_at <= 27.0
    assert alone.losing.last_error == HOPELESS.get(reason, reason)


def test_a_connection_that_lived_makes_up_for_the_failures_before() -> None:
    alone = Alone()
    for _ in range(8):
        alone.losing.lose(alone.link(), "refused", 0.0)
    alone.losing.lose(alone.live(), "reset", 60.0)
    alone.losing.lose(alone.link(), "refused", 0.0)
    assert alone.losing.retry_at is not None
    assert alone.losing.retry_at <= RECONNECT_FIRST


@pytest.mark.parametrize("why", ["closing", "retiring"])
def test_a_link_that_was_not_needed_is_lost_without_a_word(why: str) -> None:
    alone = Alone()
    link = alone.live()
    if why == "closing":
        alone.links.close(link, 60.0)
    else:
        alone.links.retire(link, 60.0)
    alone.telling.take()
    alone.losing.lose(link, "reset", 60.0)
    assert alone.said() == []
    assert (alone.losing.retry_at, alone.losing.last_error) == (None, None)
    assert not alone.losing.failures_by
    assert alone.links.get(link.id) is None
    assert alone.telling.state_at == 60.0 + STATE_INTERVAL


def test_a_closing_attempt_that_never_was_live_is_no_failure() -> None:
    alone = Alone()
    link = alone.live()
    alone.links.close(link, 60.0)
    alone.telling.take()
    assert alone.losing.tick(link, 61.9)
    assert not alone.losing.tick(link, 62.0)
    assert alone.said() == [Abort(link.id)]
    assert alone.losing.last_error is None
    assert alone.links.get(link.id) is None


def test_groups_are_avoided_until_the_api_itself_fails() -> None:
    alone = Alone()
    for group in ("one", "two"):
        alone.losing.lose(alone.link(*HANDSHAKE, group=group), "reset", 0.0)
    assert alone.losing.excluded == {"one", "two"}
    alone.losing.lose(alone.link(group=None), "refused", 0.0)
    assert alone.losing.excluded == set()


def test_a_dead_connection_is_aborted() -> None:
    alone = Alone()
    link = alone.live()
    alone.losing.die(link, 60.0)
    assert alone.said()[0] == Abort(link.id)
    assert alone.losing.because == HEARTBEAT_TIMEOUT
