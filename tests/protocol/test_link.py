from __future__ import annotations

from dataclasses import replace

import pytest

from inngest_connect_asgi.messages import Delivery
from inngest_connect_asgi.protocol.link import (
    ANSWERS_EXPECTED,
    ATTEMPT_TIMEOUT,
    MAX_UNANSWERED,
    REQUESTS_REMEMBERED,
    TIMEOUTS,
    TRANSITIONS,
    Link,
    Phase,
)

from ..simulation import lease


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("other", Phase)
def test_there_is_no_way_but_those_in_the_table(phase: Phase, other: Phase) -> None:
    link = Link(1, 0.0, phase)
    if other in TRANSITIONS[phase].values():
        link.enter(other, 1.0)
        assert link.phase is other
    else:
        with pytest.raises(AssertionError):
            link.enter(other, 1.0)


def test_every_phase_of_an_attempt_has_its_time_and_all_of_them_together() -> None:
    link = Link(1, 0.0)
    assert link.next_tick == TIMEOUTS[Phase.STARTING]
    link.enter(Phase.OPENING, 9.0)
    assert link.next_tick == 9.0 + TIMEOUTS[Phase.OPENING]
    link.enter(Phase.GREETING, 18.0)
    assert link.next_tick == 18.0 + TIMEOUTS[Phase.GREETING]
    assert link.connecting
    link.enter(Phase.SYNCING, 22.0)
    assert link.next_tick == ATTEMPT_TIMEOUT < 22.0 + TIMEOUTS[Phase.SYNCING]
    assert not link.usable
    link.enter(Phase.LIVE, 23.0)
    assert link.usable
    assert link.next_tick is None
    link.enter(Phase.RETIRING, 24.0)
    assert link.usable
    link.enter(Phase.CLOSING, 25.0)
    assert link.next_tick == 25.0 + TIMEOUTS[Phase.CLOSING]


def test_what_is_due_first_is_due() -> None:
    link = Link(1, 0.0, Phase.LIVE)
    link.next_heartbeat, link.next_status, link.pause_at = 3.0, 2.0, 4.0
    assert link.next_tick == 2.0


def test_heartbeats_are_counted_from_the_first_without_an_answer() -> None:
    link = Link(1, 0.0, Phase.LIVE, heartbeat_interval=10.0)
    link.heartbeat_sent(1.0)
    assert (link.next_heartbeat, link.dead) == (11.0, False)
    for _ in range(MAX_UNANSWERED - 1):
        link.heartbeat_sent(11.0)
    assert link.dead
    link.heartbeat_answered(12.0)
    assert (link.round_trip, link.dead) == (11.0, False)
    # One that nobody waits for says nothing of the way.
    link.heartbeat_answered(13.0)
    assert (link.round_trip, link.heartbeat_answered_at) == (11.0, 13.0)


def test_answers_are_about_what_was_sent_first() -> None:
    link = Link(1, 0.0, Phase.LIVE)
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    assert link.extension_answered("job") is None
    link.extension_sent(older)
    link.extension_sent(newer)
    assert link.extension_answered("job") is older
    assert link.extension_answered("job") is newer
    assert link.extension_answered("job") is None
    assert link.reply_acked("job") is None
    link.reply_sent(older.delivery)
    link.reply_sent(newer.delivery)
    assert link.reply_acked("job") == older.delivery
    assert link.reply_acked("job") == newer.delivery
    assert link.reply_acked("job") is None


def test_acks_that_never_come_fill_no_memory() -> None:
    link = Link(1, 0.0, Phase.LIVE)
    for number in range(REQUESTS_REMEMBERED + 1):
        link.reply_sent(Delivery(f"r{number}", "lease"))
    assert link.reply_acked("r0") is None
    assert link.reply_acked("r1") == Delivery("r1", "lease")


def test_answers_that_never_come_fill_no_memory() -> None:
    link = Link(1, 0.0, Phase.LIVE)
    for number in range(REQUESTS_REMEMBERED + 10):
        link.extension_sent(lease(f"r{number}"))
    assert len(link.extensions) == REQUESTS_REMEMBERED
    for number in range(ANSWERS_EXPECTED + 10):
        link.extension_sent(lease("job", f"lease-{number}"))
        link.reply_sent(Delivery("job", f"lease-{number}"))
    assert len(link.extensions["job"]) == ANSWERS_EXPECTED
    # The earliest are kept: the first ack must not be taken for a later reply's.
    for number in range(ANSWERS_EXPECTED):
        assert link.reply_acked("job") == Delivery("job", f"lease-{number}")
    assert link.reply_acked("job") is None


def test_a_heartbeat_is_dated_and_its_answer_opens_the_link() -> None:
    link = Link(1, 0.0, Phase.LIVE, heartbeat_interval=10.0)
    link.heartbeat_sent(1.0)
    link.heartbeat_sent(11.0)
    assert (link.heartbeat_sent_at, link.is_open) == (11.0, False)
    link.heartbeat_answered(12.0)
    assert link.is_open


def test_an_old_link_has_as_long_to_close_as_any() -> None:
    link = Link(1, 0.0, Phase.LIVE)
    link.enter(Phase.CLOSING, 100.0)
    assert link.deadline == 100.0 + TIMEOUTS[Phase.CLOSING]


def test_a_link_shows_nothing_of_what_is_sent_on_it() -> None:
    link = Link(1, 0.0, Phase.LIVE)
    held = replace(lease("r"), user_trace_ctx=b"secret")
    link.unsent_acks[held.delivery] = held
    link.extension_sent(held)
    link.reply_sent(Delivery("secret", "lease"))
    assert "secret" not in repr(link)
