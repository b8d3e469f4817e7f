"""What a Connect worker does next: a state machine without I/O.

The runtime reports what happened (a frame came, a socket was lost, time passed)
and gets back a list of actions to carry out. The core never reads a clock, opens
a socket or starts a thread: ``now`` is always an argument, in seconds of any
monotonic clock.

Protocol facts are from the Inngest SDK specification (``docs/SDK_SPEC.md``
section 8 of inngest/inngest) and the gateway's source (``pkg/connect``).
"""

from __future__ import annotations

import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice

from ..errors import quoted
from ..messages import (
    API_REJECTED,
    API_UNREACHABLE,
    APP_STALLED,
    CLOSING,
    CONNECTION_LOST,
    HANDSHAKE_FAILED,
    HEARTBEAT_TIMEOUT,
    RUNTIME_CRASHED,
    STATE_EVERY,
    Accepted,
    Configuration,
    Delivered,
    Delivery,
    Extended,
    InFlight,
    Lease,
    Log,
    Ping,
    Request,
    Result,
    Stalled,
    Starved,
    State,
    Undelivered,
    Wanted,
    Withdrawn,
)
from . import frames
from .actions import (
    Abort,
    Action,
    Close,
    Finish,
    Flush,
    Open,
    Send,
    SendReply,
    StartLink,
    Tell,
)
from .backoff import Backoff
from .durations import parse_duration
from .leases import Leases
from .link import Link, Phase
from .replies import Replies, Reply
from .urls import gateway_scheme
from .watch import AppWatch, Lateness
from .wire import connect_pb2 as wire

__all__ = ["Core"]

# All in seconds.
DEFAULT_HEARTBEAT_INTERVAL = 10.0
DEFAULT_EXTEND_LEASE_INTERVAL = 5.0
SHORTEST_INTERVAL = 0.05
ACK_TIMEOUT = 5.0
"""How long a reply waits for its ack before it is flushed (SDK_SPEC 8.7)."""
RECONNECT_FIRST = 0.5
DRAIN_JITTER = 0.25
"""Spreads out the workers that one closing gateway sends away."""
STABLE_AFTER = 1.0
"""A link that lived this long is reopened at once when it is lost."""
PAUSE_GAP = 0.05
"""Between an acknowledgement and WORKER_PAUSE. The gateway handles control messages
apart from others, and gives back what is not acknowledged when it comes to a pause
(pkg/connect/gateway.go, gateway_msg_pause.go)."""
FLUSH_CONCURRENCY = 4
REFLUSH_CONCURRENCY = 2
"""Of these, how many may have failed before: some never answer."""
STATE_INTERVAL = 0.25
"""At most one state message in this time, unless the connection changed."""

SEND_WINDOW = 16 * 1024 * 1024
"""Bytes of replies that may wait to be written; the app keeps the others."""

NOTABLE_LAG = 0.1
"""A slower answer of the app's event loop is told of at once."""

IN_FLIGHT_SHOWN = 100
SETTLED_REMEMBERED = 4096
"""Deliveries remembered after their reply was delivered."""
WARNINGS_REMEMBERED = 256

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
WORKER_SHUTDOWN = "WORKER_SHUTDOWN"

# The flush API can never accept such a reply; anything else may pass.
_UNDELIVERABLE = (400, 413)

# What still counts on a link that is being closed.
_ANSWERS = (wire.WORKER_REPLY_ACK, wire.WORKER_REQUEST_EXTEND_LEASE_ACK)


class Core:
    """The state of one worker.

    Every method returns the actions to carry out, in order.

    Args:
        configuration: What to connect, and as whom.
        rng: Source of jitter.
        epoch: Unix time at which the ``now`` of all methods is zero. It may be set
            later, as the system's time may.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        rng: random.Random | None = None,
        epoch: float = 0.0,
        via: Callable[[str], str] = lambda url: "",
    ) -> None:
        rng = rng or random.Random()
        self.configuration = configuration
        self._via = via
        """By which proxy a URL is reached, for a message."""
        self.leases = Leases(DEFAULT_EXTEND_LEASE_INTERVAL)
        self.replies = Replies(configuration.reply_buffer_size)
        self.live: Link | None = None
        self.stopping = False
        self.reconnects = 0
        self.reconnects_by: Counter[str] = Counter()
        self.failures_by: Counter[str] = Counter()
        self.malformed = 0
        self.done = 0
        self.failed = 0
        self.repeated = 0
        self.heartbeats_missed = 0
        self.paused = False
        """Whether no requests are taken, because the app's loop is stalled."""
        self.last_error: str | None = None
        self.last_error_at: float | None = None
        self._random = rng
        self.epoch = epoch
        self._app_names = {app.name for app in configuration.apps}
        self._signing_key = configuration.signing_key
        self._links: dict[int, Link] = {}
        self._last_link = 0
        self._starts: dict[int, wire.StartResponse] = {}
        self._attempt: Link | None = None
        self._retry_at: float | None = None
        cap = configuration.reconnect_cap
        self._backoff = Backoff(first=RECONNECT_FIRST, cap=cap, rng=rng)
        self._excluded: set[str] = set()
        self._key_rejected = False
        self._was_live = False
        self._reconnects_for = CONNECTION_LOST
        """Why the last connection that was live is to be replaced, or was."""
        self._settled: OrderedDict[tuple[str, ...], None] = OrderedDict()
        self._superseded: OrderedDict[Delivery, None] = OrderedDict()
        """Those of which the server has sent the request anew."""
        self._asked: set[Delivery] = set()
        """Replies that the app was asked for, to be sent over a link."""
        self._flush_backoff = Backoff(first=RECONNECT_FIRST, cap=cap, rng=rng)
        self._flush_at = 0.0
        """When the API is asked again that failed as a whole."""
        self._flush_failed: Delivery | None = None
        """The last reply that made it look so."""
        self._flush_keys: dict[Delivery, str | None] = {}
        self._stop_at: float | None = None
        self._abandoned = False
        """Whether the time to stop is up."""
        self._finished = False
        self._warned: set[str] = set()
        self._watch = AppWatch()
        self._lateness = Lateness()
        self._state: State | None = None
        self._state_at: float | None = None
        self._actions: list[Action] = []

    # What happens at the app's side.

    def start(
        self,
        now: float,
        requests: Iterable[Lease] = (),
        offered: Iterable[Lease] = (),
        undelivered: Iterable[Undelivered] = (),
        settled: Iterable[Delivery] = (),
        state: State | None = None,
    ) -> list[Action]:
        """Connect, before anything else.

        Args:
            requests: What the app is running already: their leases are taken up.
            offered: What another runtime was about to acknowledge. Whether it did,
                nobody says: the server extends the lease in any case. If it did not,
                the server sends the request again at once; if it did, once the lease
                is over.
            undelivered: Replies that another runtime did not deliver.
            settled: Requests whose replies another runtime did deliver.
            state: The last one of that runtime.
        """
        if state is not None:
            self._go_on_from(state)
        settled = tuple(settled)
        self._settled.update((tuple(each), None) for each in settled)
        requests, undelivered = tuple(requests), tuple(undelivered)
        self._supersede_all_but_the_newest(
            *(lease.delivery for lease in requests),
            *(each.lease.delivery for each in undelivered),
            *settled,
        )
        for lease in requests:
            if lease.delivery not in self._superseded:
                self._take_up(lease, now, extend_now=True)
        for lease in offered:
            self._give_up_offered(lease, now)
        for each in undelivered:
            delivery = each.lease.delivery
            self.leases.release(delivery)
            if delivery in self._superseded:
                self._drop(each.lease, now)
            elif delivery not in self.replies:
                self.replies.add(each.lease, each.size, None)
        self._watch.start(now)
        self._connect(now)
        return self._take(now)

    def _supersede_all_but_the_newest(self, *deliveries: Delivery) -> None:
        """Lease ids are ULIDs: those of a request sort as it came."""
        newest: dict[str, Delivery] = {}
        for delivery in deliveries:
            other = newest.setdefault(delivery.request_id, delivery)
            if other != delivery:
                newest[delivery.request_id] = max(other, delivery)
                self._supersede(min(other, delivery))

    def _go_on_from(self, state: State) -> None:
        """Count on where another runtime has left off."""
        self._was_live = state.connection != "connecting"
        self._reconnects_for = RUNTIME_CRASHED
        self.reconnects = state.reconnects
        self.reconnects_by.update(state.reconnects_by)
        self.failures_by.update(state.failures_by)
        self.malformed = state.malformed
        self.done = state.requests_done
        self.failed = state.requests_failed
        self.repeated = state.requests_repeated
        self.heartbeats_missed = state.heartbeats_missed
        self.leases.extended = state.leases_extended
        self.leases.lost = state.leases_lost
        self.replies.flushed = state.replies_flushed
        self.replies.given_up = state.replies_given_up

    def result(self, result: Result, now: float) -> list[Action]:
        """A function returned, or the app was asked for a reply again: reply."""
        lease, size = result.lease, len(result.outcome.body)
        delivery = lease.delivery
        reply = self.replies.get(delivery)
        if reply is not None:
            self._send_again(reply, result)
            return self._take(now)
        self.leases.release(delivery)
        if delivery in self._settled:
            # Of a runtime that died: the app had not heard of it yet.
            self._do(Tell(Delivered(delivery)))
        elif self._is_superseded(delivery):
            self._drop(lease, now)
        else:
            self._count(result)
            link = self._usable()
            reply = self.replies.add(lease, size, link.id if link else None)
            if link is None:
                pass
            elif link.queued and link.queued + size > SEND_WINDOW:
                self.replies.postpone(reply)
            else:
                link.queued += size
                self._do(SendReply(link.id, result))
        self._touch(now)
        return self._take(now)

    def _count(self, result: Result) -> None:
        self.repeated += result.repeated
        if result.outcome.status in (200, 206):
            self.done += 1
        else:
            self.failed += 1

    def _send_again(self, reply: Reply, result: Result) -> None:
        """The app has sent what it was asked for."""
        delivery = reply.delivery
        if delivery in self._asked:
            self._asked.discard(delivery)
            if reply.link is not None:
                self._do(SendReply(reply.link, result))
                return
        if self.replies.is_flushing(delivery) and delivery not in self._flush_keys:
            self._flush_keys[delivery] = self._signing_key
            self._do(Flush(result, self._signing_key))

    def drain(self, timeout: float, now: float) -> list[Action]:
        """Take no new requests, let the running ones finish, and stop.

        Args:
            timeout: Seconds after which to stop in any case.
        """
        if not self.stopping:
            self.stopping = True
            self._stop_at = now + timeout
            if self.live is not None:
                self._pause(self.live, now)
        return self._take(now)

    def pong(self, number: int, now: float) -> list[Action]:
        """The app's event loop has answered a ping."""
        was_waiting = self._state is not None and self._state.app_waiting_since
        self._watch.pong(number, now)
        if was_waiting or self._watch.lag > NOTABLE_LAG:
            self._touch(now)
        if self.paused:
            self.paused = False
            self._log(logging.INFO, "The app's event loop answers again", now)
            # What was paused stays so: only a new connection gets requests.
            if not self.stopping:
                self._reconnects_for = APP_STALLED
                self._connect(now)
        return self._take(now)

    # What happens at the server's side.

    def start_answered(
        self, link_id: int, status: int, body: bytes, now: float
    ) -> list[Action]:
        """The start call was answered."""
        link = self._links.get(link_id)
        if link is None or link.phase is not Phase.STARTING:
            return []
        if status == 200:
            self._key_rejected = False
            self._open(link, body, now)
        elif status == 401:
            self._start_rejected(link, now)
        elif status == 429:
            self._fail(link, "Inngest says: too many connections (429)", now)
        else:
            self._fail(link, f"the start API answered {status}{link.via}", now)
        return self._take(now)

    def opened(self, link_id: int, now: float) -> list[Action]:
        """The WebSocket is open."""
        link = self._links.get(link_id)
        if link is not None and link.phase is Phase.OPENING:
            link.enter(Phase.GREETING, now)
        return self._take(now)

    def received(self, link_id: int, data: bytes | str, now: float) -> list[Action]:
        """A WebSocket message came."""
        link = self._links.get(link_id)
        if link is None:
            return []
        try:
            message = frames.decode(data)
            if link.connecting:
                self._handshake(link, message, now)
            elif link.phase is not Phase.CLOSING or message.kind in _ANSWERS:
                self._handle(link, message, now)
        except frames.Malformed as error:
            self.malformed += 1
            if link.connecting:
                self._fail(link, f"the gateway sent {error} in the handshake", now)
            else:
                self._warn(
                    f"malformed {error}", f"Ignored {error} from the gateway", now
                )
        return self._take(now)

    def wants(self, frame: Send | SendReply) -> bool:
        """Whether to write a frame that has waited.

        Not every acknowledgement, and no reply to what the server has sent anew.
        """
        if isinstance(frame, SendReply):
            return frame.delivery not in self._superseded
        if not frame.acknowledges:
            return True
        link = self._links.get(frame.link)
        return link is not None and frame.delivery in link.unsent_acks

    def sent(self, frame: Send | SendReply, now: float) -> list[Action]:
        """A frame that bears a delivery is on the wire."""
        assert frame.delivery is not None
        link = self._links.get(frame.link)
        if isinstance(frame, SendReply):
            self.replies.sent(frame.delivery, frame.link, now + ACK_TIMEOUT)
            if link is not None:
                link.reply_sent(frame.delivery)
                if frame.delivery not in self._superseded:
                    link.queued -= len(frame.result.outcome.body)
                    self._ask_for_postponed(link)
        elif link is not None:
            lease = link.unsent_acks.pop(frame.delivery, None)
            if lease is not None:
                link.acked_at = now
                self._accept(lease, now)
        return self._take(now)

    def _ask_for_postponed(self, link: Link) -> None:
        while link.queued < SEND_WINDOW // 2:
            reply = self.replies.next_postponed(link.id)
            if reply is None:
                return
            link.queued += reply.size
            self._asked.add(reply.delivery)
            self._do(Tell(Wanted(reply.delivery)))

    def lost(self, link_id: int, reason: str, now: float) -> list[Action]:
        """The start call failed, or the WebSocket was closed or never opened.

        Args:
            reason: The reason in the close frame, or what else went wrong.
        """
        link = self._links.get(link_id)
        if link is not None:
            self._lose(link, reason, now)
        return self._take(now)

    def flush_answered(
        self,
        delivery: Delivery,
        status: int,
        body: bytes,
        now: float,
        error: str | None = None,
    ) -> list[Action]:
        """A flush call was answered, or failed with ``error`` and status 0."""
        error = error or f"the flush API answered {status}"
        if status == 200 and not _confirms(delivery.request_id, body):
            # A proxy has answered, or a portal. The server does not have it.
            self.malformed += 1
            status, error = 0, "the flush API answered with no FlushResponse"
        key = self._flush_keys.pop(delivery, None)
        reply = self.replies.get(delivery)
        if reply is None:
            return self._take(now)
        if status == 200:
            self._flush_backoff.reset()
            self._flush_at = now
            self.replies.flushed += 1
            self._settle(delivery, now)
        elif status in _UNDELIVERABLE:
            self.replies.given_up += 1
            self._settle(delivery, now)
            self._log_given_up(reply, error, now)
        else:
            first = reply.failures == 0
            delay = self._flush_backoff.delay(reply.failures + 1)
            if status == 401 and self._switch_key(key) and first:
                delay = 0.0
            else:
                text = "Could not flush a reply; it is kept and tried again"
                self._error(text, error, now)
            # One that fails again and again says nothing of the others.
            if _is_failing(status) and delivery != self._flush_failed:
                self._flush_failed = delivery
                self._flush_at = now + self._flush_backoff.fail()
            self.replies.flush_failed(delivery, now + delay)
        return self._take(now)

    # Time.

    def tick(self, now: float) -> list[Action]:
        """Time has passed: do what is due."""
        self._tick_watch(now)
        for link in list(self._links.values()):
            self._tick_link(link, now)
        if self._retry_at is not None and self._retry_at <= now:
            self._connect(now)
        if self.live is not None:
            self._extend(self.live, now)
        if self.replies.expire(now):
            self._touch(now)
        return self._take(now)

    def late(self, seconds: float, now: float) -> list[Action]:
        """The runtime's loop got to what was due only ``seconds`` later."""
        if self._lateness.add(seconds, now):
            self._do(Tell(Starved(seconds)))
            self._touch(now)
        return self._take(now)

    def next_tick(self) -> float | None:
        """When to call :meth:`tick`, unless something happens before."""
        if self._finished:
            return None
        times = [link.next_tick for link in self._links.values()]
        times += [self._retry_at, self._stop_at, self._state_at]
        times += [self.replies.next_ack_by, self._watch.next_tick, self._pause_at]
        if self.live is not None:
            times.append(self.leases.next_due)
        if (retry := self.replies.next_retry) is not None and self._may_reflush:
            times.append(max(retry, self._flush_at))
        return min((time for time in times if time is not None), default=None)

    def _tick_watch(self, now: float) -> None:
        watch = self._watch
        if watch.ping_at is not None and watch.ping_at <= now:
            self._do(Tell(Ping(watch.ping(now))))
        if watch.stall_at is not None and watch.stall_at <= now:
            assert watch.waiting_since is not None
            watch.told = True
            self._do(Tell(Stalled(now - watch.waiting_since)))
            self._touch(now)
        if self._pause_at is not None and self._pause_at <= now:
            self.paused = True
            if self.live is not None:
                self._pause(self.live, now)
            text = "Takes no requests until the app answers again"
            self._log(logging.WARNING, text, now)
            self._touch(now, at_once=True)

    @property
    def _pause_at(self) -> float | None:
        """When the app's event loop has been stalled for too long to take more."""
        timeout, since = self.configuration.stall_timeout, self._watch.waiting_since
        if timeout is None or since is None or self.paused or self.stopping:
            return None
        return since + timeout

    def _pause(self, link: Link, now: float) -> None:
        """Take nothing more on a link, and say so."""
        if link.paused:
            return
        link.paused = True
        # The gateway gives them back when it comes to the pause, and takes no notice
        # of what it has given back.
        self._withdraw(link)
        link.pause_at = now
        if link.acked_at is not None:
            link.pause_at = max(now, link.acked_at + PAUSE_GAP)
        self._send_pause(link, now)

    def _send_pause(self, link: Link, now: float) -> None:
        if link.pause_at is not None and link.pause_at <= now:
            link.pause_at = None
            self._send(link, wire.WORKER_PAUSE)

    def _tick_link(self, link: Link, now: float) -> None:
        if link.deadline is not None and link.deadline <= now:
            phase = link.phase
            self._do(Abort(link.id))
            if phase is Phase.CLOSING:
                self._forget(link, now)
            else:
                self._lose(link, f"timed out while {phase.value}{link.via}", now)
            return
        if link.next_heartbeat is not None and link.next_heartbeat <= now:
            if link.unanswered:
                self.heartbeats_missed += 1
            if link.dead:
                self._do(Abort(link.id))
                reason = "the gateway answered no heartbeat"
                self._lose(link, reason, now, HEARTBEAT_TIMEOUT)
                return
            self._heartbeat(link, now)
        self._send_pause(link, now)
        if link.next_status is not None and link.next_status <= now:
            link.next_status = now + link.status_interval
            request_ids = [held.lease.request_id for held in self.leases]
            frame = frames.status(request_ids, shutdown_requested=self.stopping)
            self._do(Send(link.id, frame))

    # Connecting.

    def _connect(self, now: float) -> None:
        """Begin a new link, unless one is being made."""
        self._retry_at = None
        if self._attempt is not None:
            return
        self._last_link += 1
        link = Link(self._last_link, now)
        link.via = self._via(self.configuration.api_origin)
        self._links[link.id] = self._attempt = link
        self._call_start(link)
        self._touch(now)

    def _call_start(self, link: Link) -> None:
        excluded = wire.StartRequest(exclude_gateways=sorted(self._excluded))
        self._do(StartLink(link.id, excluded.SerializeToString(), self._signing_key))

    def _start_rejected(self, link: Link, now: float) -> None:
        rejected = self._signing_key
        if not self._key_rejected and self._switch_key(rejected):
            self._key_rejected = True
            self._call_start(link)
            return
        self._key_rejected = False
        self._fail(
            link,
            "Inngest rejected the signing key (401): check INNGEST_SIGNING_KEY"
            if rejected
            else "Inngest demands a signing key (401): set INNGEST_SIGNING_KEY",
            now,
            hopeless=True,
        )

    def _switch_key(self, rejected: str | None) -> bool:
        """Use the key that was not rejected; say whether there is one."""
        keys = (
            self.configuration.signing_key,
            self.configuration.signing_key_fallback,
        )
        other = keys[1] if rejected == keys[0] else keys[0]
        if rejected is None or other is None or other == rejected:
            return False
        self._signing_key = other
        return True

    def _open(self, link: Link, body: bytes, now: float) -> None:
        try:
            start = frames.parse(wire.StartResponse, body)
        except frames.Malformed as error:
            self.malformed += 1
            self._fail(link, f"the start API answered with {error}", now)
            return
        configuration = self.configuration
        url = configuration.gateway_url or start.gateway_endpoint
        if not url or not start.connection_id:
            self.malformed += 1
            self._fail(link, "the start API named no gateway", now)
            return
        try:
            scheme = gateway_scheme(url)
        except ValueError as error:
            self.malformed += 1
            self._fail(link, f"the start API named a gateway that is {error}", now)
            return
        if (
            configuration.gateway_url is None
            and configuration.api_origin.lower().startswith("https:")
            and scheme != "wss"
        ):
            # Whoever asked for TLS does not want to lose it half-way.
            self._fail(link, "the start API named a gateway without TLS", now)
            return
        self._starts[link.id] = start
        link.connection_id = start.connection_id
        link.gateway_group = start.gateway_group or None
        link.via = self._via(url)
        link.enter(Phase.OPENING, now)
        self._do(Open(link.id, url))

    def _handshake(self, link: Link, message: wire.ConnectMessage, now: float) -> None:
        if message.kind == wire.GATEWAY_CLOSING:
            self._do(Abort(link.id))
            self._lose(link, GATEWAY_CLOSING, now)
        elif link.phase is Phase.GREETING and message.kind == wire.GATEWAY_HELLO:
            link.enter(Phase.SYNCING, now)
            started_at = self.epoch + link.started_at
            frame = frames.worker_connect(
                self.configuration, self._starts.pop(link.id), started_at=started_at
            )
            self._do(Send(link.id, frame))
        elif link.phase is Phase.SYNCING and message.kind == wire.SYNC_FAILED:
            error = frames.parse(wire.SystemError, message.payload)
            self._fail(
                link,
                "Inngest could not sync the apps: "
                f"{quoted(f'{error.code}: {error.message}')}",
                now,
                hopeless=True,
            )
        elif (
            link.phase is Phase.SYNCING
            and message.kind == wire.GATEWAY_CONNECTION_READY
        ):
            data = frames.parse(wire.GatewayConnectionReadyData, message.payload)
            self._ready(link, data, now)
        else:
            kind = _kind_name(message.kind)
            self._fail(link, f"the gateway sent {kind} out of order", now)

    def _ready(
        self, link: Link, data: wire.GatewayConnectionReadyData, now: float
    ) -> None:
        link.heartbeat_interval = self._interval(
            data.heartbeat_interval, DEFAULT_HEARTBEAT_INTERVAL, now
        )
        link.status_interval = self._interval(data.status_interval, 0.0, now)
        if link.status_interval:
            link.next_status = now + link.status_interval
        extend_interval = self._interval(
            data.extend_lease_interval, DEFAULT_EXTEND_LEASE_INTERVAL, now
        )
        link.enter(Phase.LIVE, now)
        link.live_at = now
        if self._was_live:
            self.reconnects += 1
            self.reconnects_by[self._reconnects_for] += 1
        self._was_live = True
        previous = self.live
        self.live = link
        self._attempt = None
        self._excluded.clear()
        self._warned.clear()
        if self.stopping or self.paused:
            self._pause(link, now)
        else:
            self._send(link, wire.WORKER_READY)
        self._heartbeat(link, now)
        self.leases.set_interval(extend_interval, now)
        if previous is not None:
            previous.enter(Phase.RETIRING, now)
        self._log(
            logging.INFO,
            "Connected to Inngest",
            now,
            connection_id=link.connection_id,
            gateway_group=link.gateway_group,
        )
        self._touch(now, at_once=True)

    def _interval(self, text: str, default: float, now: float) -> float:
        if not text:
            return default
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            self.malformed += 1
            why = quoted(str(error))
            self._warn(f"interval {why}", f"The gateway's interval is {why}", now)
            return default
        return max(seconds, SHORTEST_INTERVAL) if seconds else default

    # Losing links.

    def _fail(
        self, link: Link, reason: str, now: float, *, hopeless: bool = False
    ) -> None:
        """A link that was being made came to nothing."""
        self._do(Abort(link.id))
        answered = link.phase is Phase.STARTING
        cause = API_REJECTED if answered else HANDSHAKE_FAILED
        self._lose(link, reason, now, cause, hopeless=hopeless)

    def _lose(
        self,
        link: Link,
        reason: str,
        now: float,
        cause: str | None = None,
        *,
        hopeless: bool = False,
    ) -> None:
        was_live, was_closing = link is self.live, link.phase is Phase.CLOSING
        was_attempt = link is self._attempt
        self._forget(link, now)
        if was_closing or not (was_live or was_attempt):
            self._touch(now)
            return
        cause = cause or _cause(link, reason)
        if was_live:
            self._reconnects_for = cause
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
        if self._attempt is None:
            # Counted from the start of the attempt, so that one which hung does
            # not add to the time a worker stays away from a server that is back.
            since = now if was_live else link.started_at
            self._retry_at = max(now, since + delay)
        if was_live:
            self._log(
                logging.WARNING,
                f"Lost the connection to Inngest: {self.last_error}; reconnecting",
                now,
                connection_id=link.connection_id,
                gateway_group=link.gateway_group,
            )
        else:
            text = "Could not connect to Inngest; trying again"
            self._error(text, self.last_error, now)
        self._touch(now, at_once=True)

    def _stable(self, link: Link, now: float) -> bool:
        """Whether to replace this link at once, not as one more failure."""
        if link.live_at is None or now - link.live_at < STABLE_AFTER:
            return False
        self._backoff.reset()
        return True

    def _forget(self, link: Link, now: float) -> None:
        self._links.pop(link.id, None)
        self._starts.pop(link.id, None)
        self._withdraw(link)
        self.replies.link_lost(link.id)
        for sent in link.extensions.values():
            # Whether the lease is extended, this link will not say any more.
            self.leases.hurry(sent[-1].delivery, now)
        if link is self.live:
            self.live = None
        if link is self._attempt:
            self._attempt = None

    def _close(self, link: Link, now: float) -> None:
        if link.pause_at is not None:
            self._send_pause(link, link.pause_at)
        link.next_heartbeat = link.next_status = None
        link.enter(Phase.CLOSING, now)
        # With any other reason, or none, the gateway counts it as unexpected.
        self._do(Close(link.id, WORKER_SHUTDOWN))
        if link is self.live:
            self.live = None

    # While connected.

    def _usable(self) -> Link | None:
        """Where to send: the live link, or else one that is being retired."""
        if self.live is not None:
            return self.live
        for link in self._links.values():
            if link.usable:
                return link
        return None

    def _handle(self, link: Link, message: wire.ConnectMessage, now: float) -> None:
        kind = message.kind
        if kind == wire.GATEWAY_EXECUTOR_REQUEST:
            self._request(link, frames.executor_request(message.payload), now)
        elif kind == wire.GATEWAY_HEARTBEAT:
            news = link.heartbeat_answered_at is None or link.unanswered > 1
            link.heartbeat_answered(now)
            if link is self.live:
                self._touch(now, at_once=news)
        elif kind == wire.WORKER_REPLY_ACK:
            ack = frames.parse(wire.WorkerReplyAckData, message.payload)
            # By its request id alone it could be about an earlier delivery.
            delivery = link.reply_acked(ack.request_id)
            if delivery is not None and delivery in self.replies:
                self._settle(delivery, now)
        elif kind == wire.WORKER_REQUEST_EXTEND_LEASE_ACK:
            answer = frames.parse(wire.WorkerRequestExtendLeaseAckData, message.payload)
            self._extended(link, answer, now)
        elif kind == wire.GATEWAY_CLOSING:
            self._gateway_closing(link, now)
        else:
            self.malformed += 1
            self._warn(
                f"kind {kind}",
                f"Ignored an unexpected {_kind_name(kind)} from the gateway",
                now,
            )

    def _heartbeat(self, link: Link, now: float) -> None:
        link.heartbeat_sent(now)
        self._send(link, wire.WORKER_HEARTBEAT)
        self._touch(now)

    def _gateway_closing(self, link: Link, now: float) -> None:
        if link is not self.live:
            return
        link.enter(Phase.RETIRING, now)
        self.live = None
        # It gave back what was not acknowledged before it said so.
        self._withdraw(link)
        self._reconnects_for = CLOSING
        if link.gateway_group is not None:
            self._excluded.add(link.gateway_group)
        self._log(
            logging.INFO,
            "The gateway is closing; moving to another one",
            now,
            connection_id=link.connection_id,
            gateway_group=link.gateway_group,
        )
        if self._attempt is None:
            stable = self._stable(link, now)
            jitter = self._random.uniform(0.0, DRAIN_JITTER)
            self._retry_at = now + (jitter if stable else self._backoff.fail())
        self._touch(now, at_once=True)

    # Requests.

    def _request(self, link: Link, request: Request, now: float) -> None:
        lease = request.lease
        delivery = lease.delivery
        if request.app_name not in self._app_names:
            # Not acknowledged, as the specification wants it: the server will
            # find a worker that has this app.
            name = quoted(request.app_name)
            text = f"Ignored a request for the unknown app {name}"
            self._warn(f"app {name}", text, now)
            return
        if link is not self.live or link.paused or self.stopping:
            # The gateway takes back what it sent before it saw WORKER_PAUSE, or said
            # that it is closing.
            return
        if delivery in self._superseded:
            return
        if not self._is_known(delivery):
            self._do(Tell(request))
        link.unsent_acks[delivery] = lease
        self._do(Send(link.id, frames.request_ack(lease), delivery))

    def _is_known(self, delivery: Delivery) -> bool:
        """Whether the app has this request, or has had it lately."""
        return (
            delivery in self.leases
            or delivery in self.replies
            or delivery in self._settled
            or self._is_unsent(delivery)
        )

    def _is_unsent(self, delivery: Delivery) -> bool:
        """Whether it is about to be acknowledged over some link."""
        return any(delivery in link.unsent_acks for link in self._links.values())

    def _accept(self, lease: Lease, now: float) -> None:
        """The request is acknowledged, and so it is ours."""
        delivery = lease.delivery
        if delivery in self._settled or delivery in self.replies:
            return
        if delivery not in self.leases:
            self._take_up(lease, now)
            self._do(Tell(Accepted(delivery)))
        else:
            # The id of one that is extended may be newer than what comes again.
            if not self.leases.is_extended(delivery):
                self.leases.hold(lease, now)
                self._do(Tell(Extended(delivery, lease.lease_id)))
        self._touch(now)

    def _take_up(self, lease: Lease, now: float, *, extend_now: bool = False) -> None:
        """Hold a lease, in the place of any other of the same request id."""
        older = self.leases.of(lease.request_id)
        if older is not None and older != lease.delivery:
            self.leases.release(older)
            self._supersede(older)
        reply = self.replies.of(lease.request_id)
        if reply is not None and reply.delivery != lease.delivery:
            # It would be taken for the answer to what has come now.
            self._supersede(reply.delivery)
            link = self._links.get(reply.link) if reply.link is not None else None
            is_queued = self.replies.is_queued(reply.delivery)
            self.replies.settle(reply.delivery)
            self._drop(reply.lease, now)
            if link is not None and is_queued:
                link.queued -= reply.size
                self._ask_for_postponed(link)
        self.leases.hold(lease, now, extend_now=extend_now)

    def _supersede(self, delivery: Delivery) -> None:
        self._superseded[delivery] = None
        if len(self._superseded) > SETTLED_REMEMBERED:
            self._superseded.popitem(last=False)

    def _is_superseded(self, delivery: Delivery) -> bool:
        if delivery in self._superseded:
            return True
        newest = self.leases.of(delivery.request_id)
        return newest is not None and newest != delivery

    def _withdraw(self, link: Link) -> None:
        """Forget the requests that could not be acknowledged over a link."""
        unsent, link.unsent_acks = link.unsent_acks, {}
        for delivery in unsent:
            if not self._is_known(delivery):
                self._do(Tell(Withdrawn(delivery)))

    def _give_up_offered(self, lease: Lease, now: float) -> None:
        self._do(Tell(Withdrawn(lease.delivery)))
        text = (
            "The runtime died as it took a request; if the server has the "
            "acknowledgement, it will run it again when the lease is over"
        )
        self._log_of(lease, logging.WARNING, text, now)

    # Leases.

    def _extend(self, link: Link, now: float) -> None:
        """Extend what is due over the live link: no other is sure to answer."""
        for lease in self.leases.due(now):
            # Without an id the gateway would close the connection.
            if lease.lease_id and not self._is_in_doubt(lease, link):
                link.extension_sent(lease)
                self._do(Send(link.id, frames.extend_lease(lease)))

    def _is_in_doubt(self, lease: Lease, link: Link) -> bool:
        """Whether another link is about to say which id the lease has by now."""
        return any(
            lease in other.extensions.get(lease.request_id, ())
            for other in self._links.values()
            if other is not link
        )

    def _extended(
        self, link: Link, answer: wire.WorkerRequestExtendLeaseAckData, now: float
    ) -> None:
        asked = link.extension_answered(answer.request_id)
        if asked is None:
            # Nobody asked; then it is about what is held.
            asked = self.leases.newest(answer.request_id)
        if asked is None:
            return
        delivery = asked.delivery
        if answer.new_lease_id:
            if self.leases.renew(delivery, answer.new_lease_id, now):
                self._do(Tell(Extended(delivery, answer.new_lease_id)))
            return
        held = self.leases.get(delivery)
        if held is None or held.lease_id != asked.lease_id:
            # It refused an id that another answer has replaced.
            return
        lease = self.leases.lose(delivery)
        if lease is None:
            return
        text = (
            "The server took back the lease of a running request; "
            "another worker may run it too"
        )
        self._log_of(lease, logging.WARNING, text, now)
        self._touch(now)

    # Replies.

    def _settle(self, delivery: Delivery, now: float) -> None:
        self.replies.settle(delivery)
        self._asked.discard(delivery)
        self._remember(delivery)
        self._do(Tell(Delivered(delivery)))
        self._touch(now)

    def _remember(self, delivery: Delivery) -> None:
        """Take no notice of this reply, should it come again: it is over."""
        # A plain tuple, which the garbage collector soon leaves alone.
        self._settled[tuple(delivery)] = None
        if len(self._settled) > SETTLED_REMEMBERED:
            self._settled.popitem(last=False)

    @property
    def _may_reflush(self) -> bool:
        replies = self.replies
        return (
            replies.flushing < FLUSH_CONCURRENCY
            and replies.reflushing < REFLUSH_CONCURRENCY
        )

    def _flush(self, now: float) -> None:
        while self.replies.flushing < FLUSH_CONCURRENCY:
            retry = self._may_reflush and self._flush_at <= now
            reply = self.replies.next_to_flush(now, retry=retry)
            if reply is None:
                return
            self._do(Tell(Wanted(reply.delivery)))

    def _drop(self, lease: Lease, now: float) -> None:
        """A reply is of no use any more; the app need not keep it."""
        self._asked.discard(lease.delivery)
        self._do(Tell(Delivered(lease.delivery)))
        text = "Dropped a reply: the server has sent the request anew since"
        self._log_of(lease, logging.INFO, text, now)

    def _give_up_overflow(self, now: float) -> None:
        for reply in self.replies.overflow():
            self._asked.discard(reply.delivery)
            self._remember(reply.delivery)
            self._do(Tell(Delivered(reply.delivery)))
            self._log_given_up(reply, "the reply buffer is full", now)

    def _log_given_up(self, reply: Reply, why: str, now: float) -> None:
        text = f"Gave up a reply that the server has not confirmed: {why}"
        self._log_of(reply.lease, logging.ERROR, text, now, size=reply.size)

    # Ending.

    def _wind_up(self, now: float) -> None:
        """Stop, once nothing is left to do or the time is up."""
        timed_out = self._stop_at is not None and self._stop_at <= now
        unsent = any(link.unsent_acks for link in self._links.values())
        waits = len(self.leases) or len(self.replies) or unsent
        if waits and not (timed_out or self._abandoned):
            return
        if timed_out:
            self._stop_at = None
            self._abandoned = True
            self._abandon(now)
        self._retry_at = None
        for link in list(self._links.values()):
            if link.usable:
                self._close(link, now)
            elif link.phase is not Phase.CLOSING:
                self._do(Abort(link.id))
                self._forget(link, now)
        if not self._links:
            # A function may have ended since the time was up.
            self._abandon(now)
            self._stop_at = self._state_at = None
            self._finished = True

    def _abandon(self, now: float) -> None:
        # First of all: what is given up below must not be taken for new.
        for link in self._links.values():
            self._withdraw(link)
        for held in list(self.leases):
            text = "Shut down before a run finished; the server will run it elsewhere"
            self._log_of(held.lease, logging.ERROR, text, now)
            self.leases.release(held.lease.delivery)
        for reply in list(self.replies):
            self.replies.settle(reply.delivery)
            self._remember(reply.delivery)
            self.replies.given_up += 1
            self._log_given_up(reply, "the worker had to shut down", now)

    # Telling.

    def _take(self, now: float) -> list[Action]:
        """What all has been decided, and what follows from it."""
        if self._finished:
            # Two events of one turn: the first was the end.
            self._actions.clear()
            return []
        if len(self._links) > 1:
            self._retire(now)
        if self.replies.waiting:
            self._give_up_overflow(now)
            self._flush(now)
        if self.stopping:
            self._wind_up(now)
        self._tell_state(now)
        if self._finished:
            self._do(Finish())
        actions, self._actions = self._actions, []
        return actions

    def _retire(self, now: float) -> None:
        """Close a retiring link, once another is live and it owes no answer."""
        if self.live is None:
            return
        for link in list(self._links.values()):
            if (
                link.phase is Phase.RETIRING
                and link.pause_at is None
                and not self.replies.unacknowledged(link.id)
                and not self._is_awaited(link)
            ):
                self._close(link, now)

    def _is_awaited(self, link: Link) -> bool:
        """Whether a link is still to say what became of a lease."""
        return any(
            sent[-1].delivery in self.leases for sent in link.extensions.values()
        )

    def _do(self, action: Action) -> None:
        self._actions.append(action)

    def _send(self, link: Link, kind: wire.Kind.ValueType) -> None:
        self._do(Send(link.id, frames.encode(kind)))

    def _log(self, level: int, message: str, now: float, **extra: object) -> None:
        self._do(Tell(Log(level, message, extra, at=self.epoch + now)))

    def _log_of(
        self, lease: Lease, level: int, message: str, now: float, **extra: object
    ) -> None:
        """Log what became of a request, with what to look for on Inngest's side."""
        self._log(
            level,
            # Quoted, as it is from the network.
            f"{message} ({quoted(lease.function_slug)}, run {quoted(lease.run_id)})",
            now,
            request_id=lease.request_id,
            run_id=lease.run_id,
            function_id=lease.function_slug,
            **extra,
        )

    def _warn(self, key: str, message: str, now: float) -> None:
        """Log once in the life of a connection what the network can repeat."""
        if key not in self._warned and len(self._warned) < WARNINGS_REMEMBERED:
            self._warned.add(key)
            self._log(logging.WARNING, message, now)
        self._touch(now)

    def _error(self, message: str, error: str, now: float) -> None:
        """Log an error once, for as long as it stays the same."""
        if error not in self._warned and len(self._warned) < WARNINGS_REMEMBERED:
            self._warned.add(error)
            self._log(logging.ERROR, f"{message}: {error}", now)

    @property
    def connection(self) -> str:
        """The connection's state in one word, as :class:`State` has it."""
        if self._finished:
            return "stopped"
        if self.stopping:
            return "stopping"
        if self.live is not None:
            return "ready"
        if self._usable() is not None:
            return "draining"
        return "reconnecting" if self._was_live else "connecting"

    def _touch(self, now: float, *, at_once: bool = False) -> None:
        """The state has changed: tell the app soon, or at once."""
        if at_once:
            self._state_at = now
        elif self._state_at is None or self._state_at > now + STATE_INTERVAL:
            self._state_at = now + STATE_INTERVAL

    def _tell_state(self, now: float) -> None:
        told = self._state
        is_due = self._state_at is not None and self._state_at <= now
        if not is_due and told is not None and told.connection == self.connection:
            return
        # However little happens: who says nothing is taken for hung.
        self._state_at = None if self._finished else now + STATE_EVERY
        self._state = self._snapshot(now)
        self._do(Tell(self._state))

    def _snapshot(self, now: float) -> State:
        link = self.live
        return State(
            connection=self.connection,
            at=self.epoch + now,
            connection_id=link.connection_id if link else None,
            gateway_group=link.gateway_group if link else None,
            connected_at=self._wall(link.live_at) if link else None,
            reconnects=self.reconnects,
            reconnects_by=dict(self.reconnects_by),
            failures_by=dict(self.failures_by),
            last_error=self.last_error,
            last_error_at=self._wall(self.last_error_at),
            heartbeat_interval=link.heartbeat_interval if link else None,
            heartbeat_sent_at=self._wall(link.heartbeat_sent_at) if link else None,
            heartbeat_answered_at=(
                self._wall(link.heartbeat_answered_at) if link else None
            ),
            heartbeats_unanswered=link.unanswered if link else 0,
            heartbeats_missed=self.heartbeats_missed,
            round_trip=link.round_trip if link else None,
            leases_held=self.leases.held,
            leases_extended=self.leases.extended,
            leases_lost=self.leases.lost,
            requests_in_flight=len(self.leases),
            requests_done=self.done,
            requests_failed=self.failed,
            requests_repeated=self.repeated,
            in_flight=tuple(
                InFlight(
                    each.lease.request_id,
                    each.lease.run_id,
                    each.lease.function_slug,
                    self.epoch + each.since,
                )
                for each in islice(self.leases, IN_FLIGHT_SHOWN)
            ),
            replies_waiting=len(self.replies),
            replies_flushed=self.replies.flushed,
            replies_given_up=self.replies.given_up,
            malformed=self.malformed,
            paused=self.paused
            or (link is not None and link.paused and not self.stopping),
            runtime_lag=self._lateness.take(),
            app_lag=self._watch.lag,
            app_waiting_since=self._wall(self._watch.waiting_since),
        )

    def _wall(self, time: float | None) -> float | None:
        return None if time is None else self.epoch + time


def _confirms(request_id: str, body: bytes) -> bool:
    """Whether a flush call's answer speaks of the reply that was flushed."""
    try:
        answer = frames.parse(wire.FlushResponse, body)
    except frames.Malformed:
        return False
    return answer.request_id == request_id


def _is_failing(status: int) -> bool:
    """Whether an answer, or none, says more of the API than of what it was given."""
    return status in (0, 429) or status >= 500


def _cause(link: Link, reason: str) -> str:
    """Why a link was lost, in one of a few words, for whoever counts."""
    if reason == GATEWAY_CLOSING:
        return CLOSING
    if link.phase is Phase.STARTING:
        return API_UNREACHABLE
    return HANDSHAKE_FAILED if link.connecting else CONNECTION_LOST


def _kind_name(kind: int) -> str:
    try:
        return wire.Kind.Name(kind)  # type: ignore[arg-type]
    except ValueError:
        return f"message of kind {kind}"
