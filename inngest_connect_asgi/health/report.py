"""What the runtime's states mean for a probe, a report and a person.

A :class:`Health` is fed states, and judges the last one by what has passed since: a
runtime that has fallen silent is not healthy because it once said so.
"""

from __future__ import annotations

import platform
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .. import logs
from ..configuration import Configuration
from ..errors import last_line
from ..libraries import version
from ..state import OWN_LOCK, SILENCE, State

__all__ = ["DESCRIPTION", "Event", "Health", "Sample", "Verdict", "facts"]

DESCRIPTION = "Inngest Connect worker"
"""By which a report is known as one of ours."""

GRACE = 1.0
"""Seconds that a heartbeat and its answer may be late before that is a failure."""

HISTORY = 600.0
"""Seconds of samples that are kept for the plots."""

MAX_EVENTS = 50


@dataclass(frozen=True)
class Verdict:
    healthy: bool
    reason: str


@dataclass(frozen=True)
class Sample:
    """The measured durations at one moment, in seconds."""

    at: float
    round_trip: float | None
    runtime_lag: float
    app_lag: float


@dataclass(frozen=True)
class Event:
    at: float
    what: str


def facts(configuration: Configuration) -> dict[str, str]:
    """What is true of a worker for all its life."""
    return {
        "instance_id": configuration.instance_id,
        "isolation": configuration.isolation,
        "inngest-connect-asgi": version("inngest-connect-asgi"),
        "inngest": configuration.sdk_version,
        "python": platform.python_version(),
    }


class Health:
    """Judges a worker by the states that its runtime reports.

    Args:
        facts: Versions and names that never change, for the report.
        wedge_timeout: Seconds after which an app's event loop that does not answer
            is one that a restart would mend; ``None``: never.
        clock: Seconds, from any moment on. Not the time of day, which may be set.
    """

    def __init__(
        self,
        facts: dict[str, str] | None = None,
        *,
        wedge_timeout: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.facts = facts or {}
        self.state = State("connecting", at=time.time())
        self.moved_at: float | None = None
        """When the runtime came to live where it lives now."""
        self.not_started: str | None = None
        """Why there is no worker at all."""
        self.crashed: str | None = None
        """The error of a runtime that will not be started again."""
        self.samples: deque[Sample] = deque()
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._wedge_timeout = wedge_timeout
        self._clock = clock
        self._updated_at = clock()

    def begin(self, facts: dict[str, str]) -> None:
        """There is a worker now, and this is what it is."""
        self.facts = facts
        self.not_started = None
        self.crashed = None
        self._updated_at = self._clock()
        self.state = State("connecting", at=time.time())

    def now(self) -> float:
        """Unix time, as the runtime counts it: its last state's, and what passed since.

        The system's time may be set while a worker runs, and a state's times stay.
        """
        # In this order: update() runs in another thread.
        at = self.state.at
        return at + self._clock() - self._updated_at

    def update(self, state: State) -> None:
        """Take the runtime's newest state."""
        # In this order: others read them in threads of their own.
        self._updated_at = self._clock()
        before, self.state = self.state, state
        if state.connection != before.connection:
            self.events.append(Event(state.at, _describe(state)))
        if before.lives_in and state.lives_in != before.lives_in:
            self.moved_at = state.at
            self.events.append(Event(state.at, f"moved to a {state.lives_in}"))
        if not self.samples or abs(state.at - self.samples[-1].at) >= 1.0:
            self.samples.append(
                Sample(state.at, state.round_trip, state.runtime_lag, self.app_lag())
            )
            while state.at - self.samples[0].at > HISTORY:
                self.samples.popleft()

    def fail(self, reason: str) -> None:
        """There is no worker, or no longer one, and this is why."""
        self.not_started = reason
        self.events.append(Event(self.now(), reason))

    def crash(self, error: str) -> None:
        """The runtime crashed, and will not be started again."""
        self.crashed = error
        self.events.append(Event(self.now(), "the runtime crashed for good"))

    def _given_up(self) -> str:
        text = "the runtime crashed and will not be started again"
        return f"{text}: {last_line(self.crashed)}" if self.crashed else text

    def ready(self) -> Verdict:
        """Whether requests reach this worker."""
        if self.not_started is not None:
            return Verdict(False, self.not_started)
        if self.crashed is not None:
            return Verdict(False, self._given_up())
        verdict = self._connected()
        if verdict.healthy and self.silence() > SILENCE:
            return Verdict(False, self._hangs())
        return verdict

    def _connected(self) -> Verdict:
        state = self.state
        if state.connection != "ready":
            return Verdict(False, _describe(state))
        if state.paused and self.app_lag() > GRACE:
            return Verdict(False, "paused: the app's event loop does not answer")
        if state.paused:
            return Verdict(
                False, "paused: the app answers again, and waits for a new connection"
            )
        return self._heartbeats()

    def silence(self) -> float:
        """Seconds since the runtime has said anything."""
        return self._clock() - self._updated_at

    def _hangs(self) -> str:
        return f"the runtime has said nothing for {self.silence():.0f} s"

    def _heartbeats(self) -> Verdict:
        state, now = self.state, self.now()
        interval, sent_at = state.heartbeat_interval, state.heartbeat_sent_at
        if interval is None or sent_at is None:
            return Verdict(False, "no heartbeat was sent yet")
        if state.heartbeats_unanswered and state.heartbeat_answered_at is None:
            return Verdict(False, "no heartbeat was answered yet")
        if now - sent_at > interval + GRACE:
            return Verdict(False, f"no heartbeat was sent for {now - sent_at:.1f} s")
        answered_at = state.heartbeat_answered_at or 0.0
        if state.heartbeats_unanswered > 1 or (
            state.heartbeats_unanswered and now - sent_at > GRACE
        ):
            silence = now - answered_at
            return Verdict(False, f"no heartbeat was answered for {silence:.1f} s")
        return Verdict(True, "connected; heartbeats are answered")

    def live(self) -> Verdict:
        """Whether a restart would be of any use, were it not."""
        if self.crashed is not None:
            return Verdict(False, self._given_up())
        since, limit = self.state.app_waiting_since, self._wedge_timeout
        silence = 0.0 if since is None else self.now() - since
        if limit is not None and silence > limit:
            return Verdict(
                False, f"the app's event loop has not answered for {silence:.0f} s"
            )
        if self.not_started is None and self._is_hung():
            return Verdict(False, self._hangs())
        return Verdict(True, "nothing that a restart would mend")

    def _is_hung(self) -> bool:
        """Whether the runtime will not come back by itself.

        A process or an interpreter of its own says something every other second. A
        thread says nothing either while native code holds the lock, and then goes on.
        """
        limit: float | None = SILENCE
        if self.state.lives_in not in OWN_LOCK:
            limit = self._wedge_timeout
        stopped = self.state.connection == "stopped"
        return limit is not None and not stopped and self.silence() > limit

    def app_lag(self) -> float:
        """Seconds that the app's event loop takes to answer, or has taken yet."""
        state = self.state
        if state.app_waiting_since is None:
            return state.app_lag
        return max(state.app_lag, self.now() - state.app_waiting_since)

    def status(self) -> str:
        """``pass``, ``warn`` or ``fail``, as health+json has it."""
        if not self.live().healthy:
            return "fail"
        if self.ready().healthy:
            return "pass"
        # An outage of Inngest is not this app's failure.
        return "warn"

    def report(self, *, details: bool) -> dict[str, Any]:
        """The report in the format of draft-inadarei-api-health-check."""
        status = self.status()
        if not details:
            return {"status": status}
        verdict = self.ready() if self.live().healthy else self.live()
        return {
            "status": status,
            "output": verdict.reason,
            "description": DESCRIPTION,
            "serviceId": self.facts.get("instance_id"),
            "version": self.facts.get("inngest-connect-asgi"),
            "notes": [f"{name} {value}" for name, value in self.facts.items()],
            "checks": self._checks(),
        }

    def _checks(self) -> dict[str, list[dict[str, Any]]]:
        state, now = self.state, self.now()
        ready, heartbeats = self.ready(), self._heartbeats()
        connected = state.connected_at
        oldest = state.in_flight[0].since if state.in_flight else None
        lag_status = _status(self.live().healthy, "fail")
        return {
            "connection:state": [
                {
                    "componentId": state.connection_id,
                    "observedValue": state.connection,
                    "status": _status(ready.healthy, "warn"),
                    "output": ready.reason,
                    "gatewayGroup": state.gateway_group,
                    "lastError": state.last_error,
                    "lastErrorTime": _time(state.last_error_at),
                    "time": _time(state.at),
                }
            ],
            "connection:uptime": [
                _seconds(None if connected is None else now - connected)
            ],
            "connection:reconnects": [_count(state.reconnects)],
            "connection:malformed": [_count(state.malformed)],
            "heartbeats:interval": [_seconds(state.heartbeat_interval)],
            "heartbeats:roundTrip": [
                _seconds(
                    state.round_trip,
                    status=_status(heartbeats.healthy, "warn"),
                    output=heartbeats.reason,
                    lastSent=_time(state.heartbeat_sent_at),
                    lastAnswered=_time(state.heartbeat_answered_at),
                )
            ],
            "heartbeats:unanswered": [_count(state.heartbeats_unanswered)],
            "heartbeats:missed": [_count(state.heartbeats_missed)],
            "leases:held": [_count(state.leases_held)],
            "leases:extended": [_count(state.leases_extended)],
            "leases:lost": [_count(state.leases_lost)],
            "requests:inFlight": [_count(state.requests_in_flight)],
            "requests:oldest": [_seconds(None if oldest is None else now - oldest)],
            "requests:done": [_count(state.requests_done)],
            "requests:failed": [_count(state.requests_failed)],
            "requests:repeated": [_count(state.requests_repeated)],
            "replies:waiting": [_count(state.replies_waiting)],
            "replies:flushed": [_count(state.replies_flushed)],
            "replies:givenUp": [_count(state.replies_given_up)],
            "runtime:isolation": [
                {"observedValue": state.lives_in, "time": _time(self.moved_at)}
            ],
            "runtime:lag": [_seconds(state.runtime_lag)],
            "app:lag": [_seconds(self.app_lag(), status=lag_status)],
            **_logging(),
        }


def _logging() -> dict[str, list[dict[str, Any]]]:
    """Told of where it is odd only: by then the log can't."""
    reason = logs.disabled()
    return {} if reason is None else {"logging": [{"status": "warn", "output": reason}]}


def _status(healthy: bool, otherwise: str) -> str:
    return "pass" if healthy else otherwise


def _count(value: int) -> dict[str, Any]:
    return {"observedValue": value}


def _seconds(value: float | None, **more: object) -> dict[str, Any]:
    rounded = None if value is None else round(value, 6)
    return {"observedValue": rounded, "observedUnit": "s", **more}


def _time(at: float | None) -> str | None:
    """RFC 3339."""
    if at is None:
        return None
    moment = datetime.fromtimestamp(at, timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _describe(state: State) -> str:
    words = {
        "connecting": "not connected yet",
        "ready": f"connected to gateway group {state.gateway_group or 'unnamed'}",
        "draining": "the gateway is closing; moving to another one",
        "reconnecting": "the connection was lost; reconnecting",
        "stopping": "the app is shutting down",
        "stopped": "stopped",
    }
    text = words[state.connection]
    if state.last_error is not None and state.connection != "ready":
        text += f": {state.last_error}"
    return text
