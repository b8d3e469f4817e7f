"""Making a connection, and what follows when one is lost."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable

from ..configuration import Configuration
from ..errors import quoted
from ..messages import (
    API_REJECTED,
    API_UNREACHABLE,
    CLOSING,
    CONNECTION_LOST,
    HANDSHAKE_FAILED,
    State,
)
from . import frames
from .actions import Abort, Open, Send, StartLink
from .backoff import Backoff
from .durations import parse_duration
from .keys import Keys
from .link import Link, Phase
from .links import Links
from .telling import Telling
from .urls import gateway_scheme
from .wire import connect_pb2 as wire

__all__ = ["Connecting"]

# All in seconds.
DEFAULT_HEARTBEAT_INTERVAL = 10.0
SHORTEST_INTERVAL = 0.05
RECONNECT_FIRST = 0.5
DRAIN_JITTER = 0.25
"""Spreads out the workers that one closing gateway sends away."""
STABLE_AFTER = 1.0
"""A link that lived this long is reopened at once when it is lost."""

# Close reasons that only a person can do something about (pkg/syscode).
HOPELESS = {
    "connect_authentication_failed": "the gateway rejected the session",
    "connect_worker_hello_invalid_payload": (
        "the gateway rejected this worker's configuration"
    ),
    "connect_too_many_apps_per_connection": (
        "there are more apps on this connection than the account allows"
    ),
    "connect_invalid_function_config": (
        "the gateway rejected the configuration of a function"
    ),
}
GATEWAY_CLOSING = "connect_gateway_closing"


class Connecting:
    """Attempts, one after another, and their outcome.

    Args:
        ready: Is called with a link that is live, and the text of the interval in
            which leases are to be extended over it.
        via: By which proxy a URL is reached, for a message.
    """

    def __init__(
        self,
        configuration: Configuration,
        telling: Telling,
        links: Links,
        keys: Keys,
        rng: random.Random,
        *,
        ready: Callable[[Link, str, float], None],
        via: Callable[[str], str],
    ) -> None:
        self.retry_at: float | None = None
        self.was_live = False
        self.because = CONNECTION_LOST
        """Why the last connection that was live is to be replaced, or was."""
        self.reconnects = 0
        self.reconnects_by: Counter[str] = Counter()
        self.failures_by: Counter[str] = Counter()
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self.malformed = 0
        self._configuration = configuration
        self._telling = telling
        self._links = links
        self._keys = keys
        self._random = rng
        self._ready = ready
        self._via = via
        self._starts: dict[int, wire.StartResponse] = {}
        cap = configuration.reconnect_cap
        self._backoff = Backoff(first=RECONNECT_FIRST, cap=cap, rng=rng)
        self._excluded: set[str] = set()
        self._key_rejected = False

    def go_on_from(self, state: State, because: str) -> None:
        """Count on where another runtime has left off."""
        self.was_live = state.connection != "connecting"
        self.because = because
        self.reconnects = state.reconnects
        self.reconnects_by.update(state.reconnects_by)
        self.failures_by.update(state.failures_by)

    def connect(self, now: float) -> None:
        """Begin a new link, unless one is being made."""
        self.retry_at = None
        if self._links.attempt is not None:
            return
        link = self._links.begin(now)
        link.via = self._via(self._configuration.api_origin)
        self._call_start(link)
        self._telling.touch(now)

    def _call_start(self, link: Link) -> None:
        excluded = wire.StartRequest(exclude_gateways=sorted(self._excluded))
        body = excluded.SerializeToString()
        self._telling.do(StartLink(link.id, body, self._keys.current))

    def start_answered(self, link: Link, status: int, body: bytes, now: float) -> None:
        if status == 200:
            self._key_rejected = False
            self._open(link, body, now)
        elif status == 401:
            self._start_rejected(link, now)
        elif status == 429:
            self.fail(link, "Inngest says: too many connections (429)", now)
        else:
            self.fail(link, f"the start API answered {status}{link.via}", now)

    def _start_rejected(self, link: Link, now: float) -> None:
        rejected = self._keys.current
        if not self._key_rejected and self._keys.switch(rejected):
            self._key_rejected = True
            self._call_start(link)
            return
        self._key_rejected = False
        self.fail(
            link,
            "Inngest rejected the signing key (401): check INNGEST_SIGNING_KEY"
            if rejected
            else "Inngest demands a signing key (401): set INNGEST_SIGNING_KEY",
            now,
            hopeless=True,
        )

    def _open(self, link: Link, body: bytes, now: float) -> None:
        try:
            start = _start_response(body)
            url = _gateway_url(self._configuration, start)
        except frames.Malformed as error:
            self.malformed += 1
            self.fail(link, f"the start API {error}", now)
            return
        except ValueError as error:
            self.fail(link, f"the start API {error}", now)
            return
        self._starts[link.id] = start
        link.connection_id = start.connection_id
        link.gateway_group = start.gateway_group or None
        link.via = self._via(url)
        link.enter(Phase.OPENING, now)
        self._telling.do(Open(link.id, url))

    def handshake(self, link: Link, message: wire.ConnectMessage, now: float) -> None:
        """Take the gateway's part in the handshake.

        Raises:
            Malformed: It is none.
        """
        kind = message.kind
        if kind == wire.GATEWAY_CLOSING:
            self._telling.do(Abort(link.id))
            self.lose(link, GATEWAY_CLOSING, now)
        elif link.phase is Phase.GREETING and kind == wire.GATEWAY_HELLO:
            link.enter(Phase.SYNCING, now)
            started_at = self._telling.epoch + link.started_at
            frame = frames.worker_connect(
                self._configuration, self._starts.pop(link.id), started_at=started_at
            )
            self._telling.do(Send(link.id, frame))
        elif link.phase is Phase.SYNCING and kind == wire.SYNC_FAILED:
            error = frames.parse(wire.SystemError, message.payload)
            self.fail(
                link,
                "Inngest could not sync the apps: "
                f"{quoted(f'{error.code}: {error.message}')}",
                now,
                hopeless=True,
            )
        elif link.phase is Phase.SYNCING and kind == wire.GATEWAY_CONNECTION_READY:
            data = frames.parse(wire.GatewayConnectionReadyData, message.payload)
            self._connected(link, data, now)
        else:
            self.fail(link, f"the gateway sent {frames.name(kind)} out of order", now)

    def _connected(
        self, link: Link, data: wire.GatewayConnectionReadyData, now: float
    ) -> None:
        link.heartbeat_interval = self.interval(
            data.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL, now
        )
        link.status_interval = self.interval(data.status_interval, 0.0, now)
        if link.status_interval:
            link.next_status = now + link.status_interval
        if self.was_live:
            self.reconnects += 1
            self.reconnects_by[self.because] += 1
        self.was_live = True
        self._excluded.clear()
        self._telling.begin_anew()
        self._ready(link, data.extend_lease_interval, now)
        self._telling.log(
            logging.INFO,
            "Connected to Inngest",
            now,
            connection_id=link.connection_id,
            gateway_group=link.gateway_group,
        )
        self._telling.touch(now, at_once=True)

    def interval(self, text: str, default: float, now: float) -> float:
        """Seconds, as the gateway wants it."""
        if not text:
            return default
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            self.malformed += 1
            why = quoted(str(error))
            text = f"The gateway's interval is {why}"
            self._telling.warn(f"interval {why}", text, now)
            return default
        return max(seconds, SHORTEST_INTERVAL) if seconds else default

    # Losing links.

    def gateway_closing(self, link: Link, now: float) -> None:
        """Move to another gateway, while this one lets us finish."""
        self._links.retire(link, now)
        self.because = CLOSING
        if link.gateway_group is not None:
            self._excluded.add(link.gateway_group)
        self._telling.log(
            logging.INFO,
            "The gateway is closing; moving to another one",
            now,
            connection_id=link.connection_id,
            gateway_group=link.gateway_group,
        )
        if self._links.attempt is None:
            stable = self._stable(link, now)
            jitter = self._random.uniform(0.0, DRAIN_JITTER)
            self.retry_at = now + (jitter if stable else self._backoff.fail())
        self._telling.touch(now, at_once=True)

    def fail(
        self, link: Link, reason: str, now: float, *, hopeless: bool = False
    ) -> None:
        """A link that was being made came to nothing."""
        self._telling.do(Abort(link.id))
        answered = link.phase is Phase.STARTING
        cause = API_REJECTED if answered else HANDSHAKE_FAILED
        self.lose(link, reason, now, cause, hopeless=hopeless)

    def lose(
        self,
        link: Link,
        reason: str,
        now: float,
        cause: str | None = None,
        *,
        hopeless: bool = False,
    ) -> None:
        """Forget a link, and see to another one."""
        was_live, was_closing = link is self._links.live, link.phase is Phase.CLOSING
        was_attempt = link is self._links.attempt
        self._starts.pop(link.id, None)
        self._links.forget(link, now)
        if was_closing or not (was_live or was_attempt):
            self._telling.touch(now)
            return
        cause = cause or _cause(link, reason)
        if was_live:
            self.because = cause
        else:
            self.failures_by[cause] += 1
        self.last_error = HOPELESS.get(reason, reason)
        self.last_error_at = now
        hopeless = hopeless or reason in HOPELESS
        if self._stable(link, now) and not hopeless:
            jitter = DRAIN_JITTER if reason == GATEWAY_CLOSING else 0.0
            delay = self._random.uniform(0.0, jitter)
        else:
            delay = self._backoff.fail(hopeless=hopeless)
        if link.gateway_group is None:
            # The start call itself failed: maybe no other gateway is left.
            self._excluded.clear()
        else:
            self._excluded.add(link.gateway_group)
        if self._links.attempt is None:
            # Counted from the start of the attempt, so that one which hung does
            # not add to the time a worker stays away from a server that is back.
            since = now if was_live else link.started_at
            self.retry_at = max(now, since + delay)
        if was_live:
            self._telling.log(
                logging.WARNING,
                f"Lost the connection to Inngest: {self.last_error}; reconnecting",
                now,
                connection_id=link.connection_id,
                gateway_group=link.gateway_group,
            )
        else:
            text = "Could not connect to Inngest; trying again"
            self._telling.error(text, self.last_error, now)
        self._telling.touch(now, at_once=True)

    def _stable(self, link: Link, now: float) -> bool:
        """Whether to replace this link at once, not as one more failure."""
        if link.live_at is None or now - link.live_at < STABLE_AFTER:
            return False
        self._backoff.reset()
        return True


def _start_response(body: bytes) -> wire.StartResponse:
    try:
        return frames.parse(wire.StartResponse, body)
    except frames.Malformed as error:
        raise frames.Malformed(f"answered with {error}") from None


def _gateway_url(configuration: Configuration, start: wire.StartResponse) -> str:
    """Where the gateway is.

    Raises:
        Malformed: There is none, or that is no place.
        ValueError: It is not for those who want TLS.
    """
    url = configuration.gateway_url or start.gateway_endpoint
    if not url or not start.connection_id:
        raise frames.Malformed("named no gateway")
    try:
        scheme = gateway_scheme(url)
    except ValueError as error:
        raise frames.Malformed(f"named a gateway that is {error}") from None
    wants_tls = configuration.api_origin.lower().startswith("https:")
    if configuration.gateway_url is None and wants_tls and scheme != "wss":
        # Whoever asked for TLS does not want to lose it half-way.
        raise ValueError("named a gateway without TLS")
    return url


def _cause(link: Link, reason: str) -> str:
    """Why a link was lost, in one of a few words, for whoever counts."""
    if reason == GATEWAY_CLOSING:
        return CLOSING
    if link.phase is Phase.STARTING:
        return API_UNREACHABLE
    return HANDSHAKE_FAILED if link.connecting else CONNECTION_LOST
