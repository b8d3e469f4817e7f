"""Making a connection, and what follows when one is lost."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from ..configuration import Configuration
from ..errors import quoted
from ..state import State
from . import frames
from .actions import Abort, Open, Send, StartLink
from .durations import parse_duration
from .keys import Keys
from .link import Link, Phase
from .links import Links
from .losing import GATEWAY_CLOSING, Losing
from .telling import Telling
from .urls import gateway_scheme
from .wire import connect as wire

__all__ = ["Connecting"]

# All in seconds.
DEFAULT_HEARTBEAT_INTERVAL = 10.0
SHORTEST_INTERVAL = 0.05


class Connecting:
    """Attempts, one after another, until a link is live.

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
        losing: Losing,
        *,
        ready: Callable[[Link, str, float], None],
        via: Callable[[str], str],
    ) -> None:
        self.was_live = False
        self.reconnects = 0
        self.reconnects_by: Counter[str] = Counter()
        self.malformed = 0
        self._configuration = configuration
        self._telling = telling
        self._links = links
        self._keys = keys
        self._losing = losing
        self._ready = ready
        self._via = via
        self._starts: dict[int, wire.StartResponse] = {}
        self._key_rejected = False

    def go_on_from(self, state: State, because: str) -> None:
        """The connection of another runtime is lost."""
        self.was_live = state.connection != "connecting"
        self._losing.because = because

    def count_on_from(self, state: State) -> None:
        self.reconnects += state.reconnects
        self.reconnects_by.update(state.reconnects_by)
        self._losing.failures_by.update(state.failures_by)

    def connect(self, now: float) -> None:
        """Begin a new link, unless one is being made."""
        self._losing.retry_at = None
        if self._links.attempt is not None:
            return
        link = self._links.begin(now)
        link.via = self._via(self._configuration.api_origin)
        self._call_start(link)
        self._telling.touch(now)

    def _call_start(self, link: Link) -> None:
        excluded = wire.StartRequest(exclude_gateways=sorted(self._losing.excluded))
        body = excluded.SerializeToString()
        self._telling.do(StartLink(link.id, body, self._keys.current))

    def forget(self, link: Link) -> None:
        self._starts.pop(link.id, None)

    def start_answered(self, link: Link, status: int, body: bytes, now: float) -> None:
        if status == 200:
            self._key_rejected = False
            self._open(link, body, now)
        elif status == 401:
            self._start_rejected(link, now)
        elif status == 429:
            self._losing.fail(link, "Inngest says: too many connections (429)", now)
        else:
            self._losing.fail(link, f"the start API answered {status}{link.via}", now)

    def _start_rejected(self, link: Link, now: float) -> None:
        rejected = self._keys.current
        if not self._key_rejected and self._keys.switch(rejected):
            self._key_rejected = True
            self._call_start(link)
            return
        self._key_rejected = False
        self._losing.fail(
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
            self._losing.fail(link, f"the start API {error}", now)
            return
        except ValueError as error:
            self._losing.fail(link, f"the start API {error}", now)
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
            self._losing.lose(link, GATEWAY_CLOSING, now)
        elif link.phase is Phase.GREETING and kind == wire.GATEWAY_HELLO:
            link.enter(Phase.SYNCING, now)
            started_at = self._telling.epoch + link.started_at
            start = self._starts.pop(link.id)
            frame = frames.worker_connect(
                self._configuration, start, started_at=started_at
            )
            self._telling.do(Send(link.id, frame))
        elif link.phase is Phase.SYNCING and kind == wire.SYNC_FAILED:
            error = frames.parse(wire.SystemError, message.payload)
            self._losing.fail(
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
            self._losing.fail(
                link, f"the gateway sent {frames.name(kind)} out of order", now
            )

    def _connected(
        self, link: Link, data: wire.GatewayConnectionReadyData, now: float
    ) -> None:
        self._telling.begin_anew()
        link.heartbeat_interval = self.interval(
            data.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL, now
        )
        link.status_interval = self.interval(data.status_interval, 0.0, now)
        if link.status_interval:
            link.next_status = now + link.status_interval
        if self.was_live:
            self.reconnects += 1
            self.reconnects_by[self._losing.because] += 1
        self.was_live = True
        self._losing.excluded.clear()
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
