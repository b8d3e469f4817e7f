"""The core's state in one message, for the app and for the next runtime."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from ..messages import InFlight, State

if TYPE_CHECKING:
    from .core import Core

__all__ = ["connection", "go_on_from", "of"]

IN_FLIGHT_SHOWN = 100


def connection(core: Core) -> str:
    """The connection's state in one word, as :class:`State` has it."""
    if core.ending.finished:
        return "stopped"
    if core.stopping:
        return "stopping"
    if core.links.live is not None:
        return "ready"
    if core.links.usable() is not None:
        return "draining"
    return "reconnecting" if core.connecting.was_live else "connecting"


def of(core: Core, now: float) -> State:
    """The state as it is."""
    link, connecting, watch = core.links.live, core.connecting, core.stalling.watch
    leases, replies, outcomes = core.leases, core.replies, core.delivering.outcomes
    losing, epoch, wall = core.losing, core.epoch, core.telling.wall
    return State(
        connection=connection(core),
        at=epoch + now,
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
        heartbeats_missed=core.links.heartbeats_missed,
        round_trip=link.round_trip if link else None,
        leases_held=leases.held,
        leases_extended=leases.extended,
        leases_lost=leases.lost,
        requests_in_flight=len(leases),
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
            for each in islice(leases, IN_FLIGHT_SHOWN)
        ),
        replies_waiting=len(replies),
        replies_flushed=replies.flushed,
        replies_given_up=replies.given_up,
        malformed=core.malformed + connecting.malformed + core.delivering.malformed,
        paused=core.stalling.paused
        or (link is not None and link.paused and not core.stopping),
        runtime_lag=core.lateness.take(),
        app_lag=watch.lag,
        app_waiting_since=wall(watch.waiting_since),
    )


def go_on_from(core: Core, state: State) -> None:
    """Count on where another runtime has left off."""
    core.malformed = state.malformed
    core.delivering.outcomes.update(
        done=state.requests_done,
        failed=state.requests_failed,
        repeated=state.requests_repeated,
    )
    core.links.heartbeats_missed = state.heartbeats_missed
    core.leases.extended = state.leases_extended
    core.leases.lost = state.leases_lost
    core.replies.flushed = state.replies_flushed
    core.replies.given_up = state.replies_given_up
