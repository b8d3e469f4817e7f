"""The core's state in one message, for the app and for the next runtime."""

from __future__ import annotations

from itertools import islice

from ..state import InFlight, State
from .actions import Tell
from .parts import Parts

__all__ = ["connection", "go_on_from", "of", "tell"]

IN_FLIGHT_SHOWN = 100


def connection(parts: Parts) -> str:
    """The connection's state in one word, as :class:`State` has it."""
    ending = parts.ending
    if ending.begun:
        return "stopped" if ending.finished else "stopping"
    if parts.links.live is not None:
        return "ready"
    if parts.links.usable() is not None:
        return "draining"
    return "reconnecting" if parts.connecting.was_live else "connecting"


def of(parts: Parts, now: float) -> State:
    """The state as it is."""
    link, connecting, watch = parts.links.live, parts.connecting, parts.stalling.watch
    leases, replies, outcomes = parts.leases, parts.replies, parts.delivering.outcomes
    losing, epoch, wall = parts.losing, parts.telling.epoch, parts.telling.wall
    return State(
        connection=connection(parts),
        at=epoch + now,
        lives_in=parts.configuration.isolation,
        connection_id=link.connection_id if link else None,
        gateway_group=link.gateway_group if link else None,
        connected_at=wall(link.live_at) if link else None,
        reconnects=connecting.reconnects,
        reconnects_by=dict(connecting.reconnects_by),
        failures_by=dict(losing.failures_by),
        last_error=losing.last_error,
        last_error_at=wall(losing.last_error_at),
        heartbeat_interval=link.heartbeat_interval if link else None,
        heartbeat_sent_at=wall(link.heartbeat_sent_at) if link else None,
        heartbeat_answered_at=wall(link.heartbeat_answered_at) if link else None,
        heartbeats_unanswered=link.unanswered if link else 0,
        heartbeats_missed=parts.links.heartbeats_missed,
        round_trip=link.round_trip if link else None,
        leases_held=leases.held,
        leases_extended=leases.extended,
        leases_lost=leases.lost,
        requests_in_flight=len(leases.running),
        requests_done=outcomes["done"],
        requests_failed=outcomes["failed"],
        requests_repeated=outcomes["repeated"],
        in_flight=tuple(
            InFlight(
                each.lease.request_id,
                each.lease.run_id,
                each.lease.function_slug,
                epoch + each.since,
            )
            for each in islice(leases.running.values(), IN_FLIGHT_SHOWN)
        ),
        replies_waiting=len(replies),
        replies_flushed=replies.flushed,
        replies_given_up=replies.given_up,
        malformed=parts.malformed + connecting.malformed + parts.delivering.malformed,
        paused=parts.stalling.paused
        or (link is not None and link.paused and not parts.stopping),
        runtime_lag=parts.lateness.take(),
        app_lag=watch.lag,
        app_waiting_since=wall(watch.waiting_since),
    )


def go_on_from(parts: Parts, state: State) -> None:
    """Count on where another runtime has left off."""
    parts.malformed += state.malformed
    parts.delivering.outcomes.update(
        done=state.requests_done,
        failed=state.requests_failed,
        repeated=state.requests_repeated,
    )
    parts.links.heartbeats_missed += state.heartbeats_missed
    parts.leases.extended += state.leases_extended
    parts.leases.lost += state.leases_lost
    parts.replies.flushed += state.replies_flushed
    parts.replies.given_up += state.replies_given_up
    parts.connecting.count_on_from(state)


def tell(parts: Parts, now: float) -> None:
    """Tell the app of the state, where that is due or the connection another."""
    parts.links.changed = False
    told, state_at = parts.told, parts.telling.state_at
    is_due = state_at is not None and state_at <= now
    if not is_due and told is not None and told.connection == connection(parts):
        return
    parts.telling.told_state(now, last=parts.ending.finished)
    parts.told = of(parts, now)
    parts.telling.do(Tell(parts.told))
