"""The runtime's shell and the app around a core, without I/O, against a strict gateway.

As ``runtime/shell.py`` and ``gateway_socket.py`` do it, with every freedom that the
system leaves them; and it looks on as the core says and does what it must not.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from inngest_connect_asgi.messages import Delivery, Start, Undelivered
from inngest_connect_asgi.protocol.actions import (
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
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.links import PAUSE_GAP
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import STATE_EVERY

from .model_app import App
from .simulation import configuration, frame
from .strict_gateway import EXACT, Peer, StrictGateway, Written

__all__ = ["Shell", "Socket"]

EXTEND_INTERVAL = 5.0

BATCH = 3
"""Frames that the transport takes before it says that it has enough."""


@dataclass(eq=False)
class Socket:
    """The worker's end of a connection."""

    peer: Peer
    frames: deque[Send] = field(default_factory=deque)
    bulk: deque[SendReply] = field(default_factory=deque)
    is_paused: bool = False
    """Whether the transport takes nothing."""
    is_slow: bool = False
    """Whether it has enough after each batch."""
    close: Close | None = None
    is_ended: bool = False
    """Whether the close frame is written."""
    live_at: float | None = None
    is_open: bool = False
    """Whether the gateway has shown that it answers."""
    is_retired: bool = False
    refuses: str = ""
    """Since when the worker knows that an acknowledgement over it is void."""
    acked_at: dict[Delivery, float] = field(default_factory=dict)
    unanswered: list[Delivery] = field(default_factory=list)
    """Extensions that were sent, and of which the answer did not come."""


class Shell:
    """One worker: a core that may be replaced, and an app that stays."""

    def __init__(self, *, honour_previous: bool, **options: object) -> None:
        self.now = 0.0
        self.gateway = StrictGateway(lambda: self.now, honour_previous=honour_previous)
        self.configuration = configuration(**options)
        self.defers = False
        """Whether the app cannot read yet what the runtime says."""
        self.app = App(self.gateway)
        self.drained_at: float | None = None
        self.timeout = 0.0
        self.end_by = float("inf")
        self._begin()
        self.step(self.core.start, Start(self.core.parts.configuration))

    def _begin(self) -> None:
        self.core = Core(self.configuration, rng=random.Random(1))
        self.sockets: dict[int, Socket] = {}
        self.starts: dict[int, StartLink] = {}
        self.opening: dict[int, Open] = {}
        self.flushes: dict[Delivery, Flush] = {}
        self.acks: list[Send] = []
        """Those of this turn, or more of them while the app does not read."""
        self.app.begin(self.now)
        self.is_finished = False

    def crash(self, *, half_written: bool) -> None:
        """The runtime dies, at worst between a write and its report to the core."""
        for socket in self.sockets.values():
            if half_written:
                self._put_on_wire(socket)
            self.gateway.cut(socket.peer)
        self._begin()
        start = Start(
            self.core.parts.configuration,
            requests=tuple(self.app.running.values()),
            offered=tuple(self.app.offered.values()),
            undelivered=tuple(
                Undelivered(each.lease, len(each.outcome.body))
                for each in self.app.results.values()
            ),
            settled=tuple(self.app.settled),
            state=self.app.state,
        )
        self.step(self.core.start, start)
        if self.drained_at is not None:
            self.drain(self.timeout)

    # The shell

    def step(
        self, event: Callable[..., list[Action]], *args: object, **named: object
    ) -> None:
        for action in event(*args, now=self.now, **named):
            self._do(action)
        self.app.check_unsaved()

    def end_turn(self) -> None:
        """Write, once for all that happened in a turn of the loop."""
        if not self.defers:
            acks, self.acks = self.acks, []
            for ack in acks:
                self._send(ack)
        for link, socket in list(self.sockets.items()):
            if self.sockets.get(link) is socket:
                for written in self._put_on_wire(socket):
                    self.step(self.core.sent, written)

    def _do(self, action: Action) -> None:
        assert not self.is_finished, f"after the end: {action}"
        if isinstance(action, Tell):
            self.app.tell(action.message, self.now)
        elif isinstance(action, Send | SendReply):
            socket = self.sockets.get(action.link)
            assert socket is not None, "nothing is sent where there is no link"
            if isinstance(action, Send):
                self._look_at(socket, action)
            if isinstance(action, Send) and action.acknowledges:
                self.acks.append(action)
            else:
                self._send(action)
        elif isinstance(action, StartLink):
            self.starts[action.link] = action
        elif isinstance(action, Open):
            self.opening[action.link] = action
        elif isinstance(action, Flush):
            assert action.delivery not in self.flushes
            self.flushes[action.delivery] = action
        elif isinstance(action, Close):
            self._look_at_close(self.sockets[action.link])
            self.sockets[action.link].close = action
        elif isinstance(action, Abort):
            self._forget(action.link)
        elif isinstance(action, Finish):
            self.is_finished = True

    def _send(self, action: Send | SendReply) -> None:
        socket = self.sockets.get(action.link)
        if socket is not None:
            if isinstance(action, Send):
                socket.frames.append(action)
            else:
                socket.bulk.append(action)

    def _put_on_wire(self, socket: Socket) -> list[Send | SendReply]:
        written: list[Send | SendReply] = []
        while (socket.frames or socket.bulk) and not socket.is_paused:
            for _ in range(BATCH):
                if not (socket.frames or socket.bulk):
                    break
                action = (socket.frames or socket.bulk).popleft()
                if not self.core.wants(action):
                    continue
                self._write(socket, action)
                if action.delivery is not None:
                    written.append(action)
            socket.is_paused = socket.is_slow
        if socket.close and not socket.is_ended and not (socket.frames or socket.bulk):
            socket.is_ended = True
            self._check_gap(socket, "the link is closed")
            socket.peer.inbox.append(Written(self.now, None))
        return written

    def _write(self, socket: Socket, action: Send | SendReply) -> None:
        message = wire.ConnectMessage.FromString(action.data)
        if message.kind == wire.WORKER_REQUEST_ACK:
            assert not socket.refuses, f"an acknowledgement when {socket.refuses}"
            assert action.delivery is not None
            socket.acked_at[action.delivery] = self.now
        elif message.kind == wire.WORKER_PAUSE:
            self._check_gap(socket, "the link is paused")
        elif isinstance(action, SendReply):
            newest = self.app.newest[action.delivery.request_id]
            assert newest == action.delivery, "an answer to what came before"
        if not socket.peer.is_cut:
            socket.peer.inbox.append(
                Written(self.now, message.kind, message.payload, action.delivery)
            )

    def _check_gap(self, socket: Socket, what: str) -> None:
        """The gateway has time to handle the acknowledgements before."""
        for delivery in self.app.held:
            acked_at = socket.acked_at.get(delivery, float("-inf"))
            in_time = self.now - acked_at >= PAUSE_GAP - EXACT
            assert in_time or self.is_timed_out, (
                f"{what} just behind an acknowledgement"
            )

    # What the core must not do

    def _look_at(self, socket: Socket, action: Send) -> None:
        message = wire.ConnectMessage.FromString(action.data)
        if message.kind == wire.WORKER_PAUSE:
            socket.refuses = "WORKER_PAUSE was sent"
        if message.kind != wire.WORKER_REQUEST_EXTEND_LEASE:
            return
        data = wire.WorkerRequestExtendLeaseData.FromString(message.payload)
        delivery = self.app.of_lease[data.lease_id]
        assert socket is self.live, "an extension over a link that is retired"
        assert socket.is_open, "an extension that may have no answer"
        runs = delivery in self.app.running or delivery in self.app.results
        assert runs, "an extension of what does not run"
        assert self.app.newest[delivery.request_id] == delivery, (
            "of what was superseded"
        )
        socket.unanswered.append(delivery)
        self.app.extended_at[delivery] = self.now

    def _look_at_request(self, socket: Socket, payload: bytes) -> None:
        """Whatever comes is taken, unless that would be in vain."""
        data = wire.GatewayExecutorRequestData.FromString(payload)
        delivery = Delivery(data.request_id, data.lease_id)
        acks = [each.delivery for each in (*socket.frames, *self.acks)]
        link = self.core.links.get(socket.peer.link)
        is_older = self.core.deliveries.was_superseded(delivery)
        is_open = socket is self.live and not socket.refuses
        if is_open and link and not link.paused and not self.core.parts.stopping:
            assert is_older or delivery in acks, "a request is ignored"

    def _look_at_close(self, socket: Socket) -> None:
        socket.refuses = "it is closed"
        owed = {each for each in socket.unanswered if each in self.app.held}
        assert not owed or self.is_timed_out, f"closed before {owed} was answered"

    @property
    def live(self) -> Socket | None:
        """The newest link that is ready, unless it is retired."""
        ready = [each for each in self.sockets.values() if each.live_at is not None]
        if not ready or ready[-1].close or ready[-1].is_retired:
            return None
        return ready[-1]

    @property
    def is_timed_out(self) -> bool:
        since = self.drained_at
        return since is not None and self.now >= since + self.timeout - EXACT

    # What the app does

    def get_mail(self) -> None:
        """The runtime gets what the app has sent; and what it then asks for, later."""
        mail, self.app.mailbox = self.app.mailbox, []
        for result in mail:
            if not self.is_finished:
                self.step(self.core.result, result)
        self.end_turn()

    def pong(self) -> None:
        pings, self.app.pings = self.app.pings, []
        for number in pings:
            self.step(self.core.pong, number)
        self.end_turn()

    def drain(self, timeout: float) -> None:
        if self.drained_at is None:
            self.drained_at, self.timeout = self.now, timeout
            # A link that is closed has two seconds to say so.
            self.end_by = self.now + timeout + 2.0
        left = max(0.0, self.drained_at + self.timeout - self.now)
        self.step(self.core.drain, left)
        self.end_turn()

    def read_on(self) -> None:
        """The app reads again; what has waited for that is sent."""
        self.defers = False
        self.end_turn()

    # The network

    def connect(self, *, status: str = "") -> Socket:
        """From a start call that waits to a live connection, all at once."""
        link = next(iter(self.starts))
        del self.starts[link]
        answer = wire.StartResponse(
            connection_id=f"connection-{link}",
            gateway_endpoint="ws://gateway.test",
            gateway_group="group",
        )
        self.step(self.core.start_answered, link, 200, answer.SerializeToString())
        del self.opening[link]
        peer = Peer(link)
        self.gateway.peers.append(peer)
        socket = self.sockets[link] = Socket(peer)
        self.step(self.core.opened, link)
        self.receive(socket, [frame(wire.GATEWAY_HELLO)])
        assert [each.kind for each in peer.inbox] == [wire.WORKER_CONNECT]
        peer.inbox.clear()
        data = wire.GatewayConnectionReadyData(
            heartbeat_interval="10s",
            extend_lease_interval=f"{EXTEND_INTERVAL}s",
            status_interval=status,
        )
        for older in self.sockets.values():
            if older is not socket:
                older.is_retired, older.refuses = True, "it retires"
        socket.live_at = self.now
        ready = frame(wire.GATEWAY_CONNECTION_READY, data.SerializeToString())
        self.receive(socket, [ready])
        return socket

    def receive(self, socket: Socket, messages: list[bytes]) -> None:
        """What is read at once is all told to the core before anything is written."""
        for data in messages:
            message = wire.ConnectMessage.FromString(data)
            if message.kind in (wire.GATEWAY_HEARTBEAT, wire.GATEWAY_EXECUTOR_REQUEST):
                socket.is_open = True
            if message.kind == wire.GATEWAY_CLOSING:
                socket.is_retired, socket.refuses = True, "it retires"
            elif message.kind == wire.WORKER_REQUEST_EXTEND_LEASE_ACK:
                answer = wire.WorkerRequestExtendLeaseAckData.FromString(
                    message.payload
                )
                about = [
                    each
                    for each in socket.unanswered
                    if each.request_id == answer.request_id
                ]
                socket.unanswered.remove(about[0])
            self.step(self.core.received, socket.peer.link, data)
            if message.kind == wire.GATEWAY_EXECUTOR_REQUEST:
                self._look_at_request(socket, message.payload)
        self.end_turn()

    def arrive(self, socket: Socket, count: int) -> None:
        """Read what the gateway has written."""
        outbox = socket.peer.outbox
        batch = [outbox.popleft() for _ in range(min(count, len(outbox)))]
        self.receive(socket, [data for data, _ in batch])

    def lose(self, link: int, reason: str = "the connection broke") -> None:
        self._forget(link)
        self.step(self.core.lost, link, reason)
        self.end_turn()

    def _forget(self, link: int) -> None:
        self.starts.pop(link, None)
        self.opening.pop(link, None)
        socket = self.sockets.pop(link, None)
        if socket is not None:
            # What it wrote may still arrive.
            self.gateway.cut(socket.peer)

    def answer_flush(self, status: int) -> None:
        """The API answers the oldest call; with no status the answer is lost."""
        flush = self.flushes.pop(next(iter(self.flushes)))
        request_id = flush.delivery.request_id
        if status in (0, 200):
            body = flush.result.outcome.body
            self.gateway.save(wire.SDKResponse(request_id=request_id, body=body))
        body = wire.FlushResponse(request_id=request_id).SerializeToString()
        answered = self.core.flush_answered
        self.step(answered, flush.delivery, status, body if status else b"")
        self.end_turn()

    # Time

    def advance(self, seconds: float, *, served: bool) -> None:
        """Let time pass; with a gateway that is quick, or one that says nothing."""
        end = self.now + seconds
        if served:
            self.serve()
        while (due := self.core.next_tick()) is not None and due <= end:
            self.now = max(self.now, due)
            self.step(self.core.tick)
            self.end_turn()
            after = self.core.next_tick()
            assert after is None or after > self.now, "it spins"
            if served:
                self.serve()
            self.check_time()
        self.now = end

    def starve(self, seconds: float) -> None:
        """The runtime gets no time to run."""
        due = self.core.next_tick()
        self.now += seconds
        self.app.told_at += seconds
        self.end_by += seconds
        for delivery in self.app.extended_at:
            self.app.extended_at[delivery] += seconds
        if due is not None and due < self.now:
            self.step(self.core.late, self.now - due)
            self.step(self.core.tick)
            self.end_turn()

    def check_leases(self) -> None:
        """With nothing under way, both sides have the same lease ids."""
        for delivery in self.app.held:
            lease = self.gateway.leases.get(delivery.request_id)
            known = self.core.leases.get(delivery)
            if (
                known is not None
                and lease is not None
                and lease.until > self.now
                and lease.is_told
                and lease.dispatch.delivery == delivery
                and not lease.dispatch.elsewhere
            ):
                assert known.lease_id == lease.id, "an answer is ignored"
                assert self.core.leases.is_extended(delivery), "a lease is let go"

    def check_links(self) -> None:
        """A link that is retired, and owes nothing, is closed."""
        for link, socket in self.sockets.items():
            if socket.is_retired and self.live is not None and not socket.close:
                owes = self.core.replies.unacknowledged(link) or socket.unanswered
                held = self.core.links.get(link)
                waits = held is not None and held.pause_at is not None
                assert owes or waits, "a link is kept for nothing"

    def check_replies(self) -> None:
        """No reply waits for a link that has all it was given."""
        if self.app.mailbox:
            return
        for reply in self.core.replies:
            if reply.link is not None and not self.sockets[reply.link].bulk:
                assert reply.ack_by is not None, "a reply waits for nothing"

    def check_time(self) -> None:
        live = self.live
        for delivery in self.app.owed:
            last = self.app.extended_at[delivery]
            awaited = any(delivery in s.unanswered for s in self.sockets.values())
            is_open = live is not None and live.is_open and not live.peer.is_cut
            if not is_open or awaited or not self.core.leases.is_extended(delivery):
                self.app.extended_at[delivery] = self.now
            else:
                assert self.now - last <= 2 * EXTEND_INTERVAL + EXACT, "not extended"
        assert self.is_finished or self.now - self.app.told_at <= STATE_EVERY + EXACT
        late = self.now > self.end_by + EXACT
        assert self.is_finished or not late, "it does not come to an end"

    def serve(self) -> None:
        """The gateway handles all, the worker reads all, until nothing is left."""
        for _ in range(1000):
            busy = False
            for peer in list(self.gateway.peers):
                while frames := self.gateway.next_frames(peer):
                    self.gateway.handle(peer, frames[0])
                    busy = True
                if not any(peer is each.peer for each in self.sockets.values()):
                    self.gateway.end(peer)
            for link, socket in list(self.sockets.items()):
                if socket.peer.outbox and link in self.sockets:
                    self.arrive(socket, 1000)
                    busy = True
                if socket.peer.phase == "disconnecting":
                    self.gateway.end(socket.peer)
                    self.lose(link, "WORKER_SHUTDOWN")
                    busy = True
            if not busy:
                self.check_leases()
                self.check_links()
                self.check_replies()
                return
        raise AssertionError("it never comes to rest")
