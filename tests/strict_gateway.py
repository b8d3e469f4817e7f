"""The server as it is, without I/O: what its gateways and its state do with what a
worker writes. It knows only what crosses the network, and nothing of the core.

Facts are from ``pkg/connect`` of inngest/inngest; ``docs/testing.md`` names the files.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from inngest_connect_asgi.messages import Delivery
from inngest_connect_asgi.protocol.links import PAUSE_GAP
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import ulid

from .simulation import frame

__all__ = ["Dispatch", "Peer", "StrictGateway", "Written"]

LEASE_DURATION = 20.0
MAX_FORWARDS = 3
DATA_HANDLERS = 5
ONCE_READY = (
    wire.GATEWAY_HEARTBEAT,
    wire.WORKER_REPLY_ACK,
    wire.WORKER_REQUEST_EXTEND_LEASE_ACK,
)
"""What is not written before WORKER_READY, or WORKER_PAUSE, is handled."""
CONTROL = (wire.WORKER_HEARTBEAT, wire.WORKER_READY, wire.WORKER_PAUSE)
EXACT = 1e-6
"""Seconds: sums of floats are not."""


class Written(NamedTuple):
    """A frame that the worker has put on the wire; without a kind, the close frame."""

    at: float
    kind: int | None
    payload: bytes = b""
    delivery: Delivery | None = None


@dataclass(eq=False)
class Dispatch:
    """A request under one first lease, and where it has been forwarded."""

    delivery: Delivery
    forwards: int = 0
    is_waiting: bool = True
    """Whether it is to be forwarded, for the first time or again."""
    elsewhere: bool = False
    """Whether another worker has it."""


@dataclass(eq=False)
class Lease:
    id: str
    dispatch: Dispatch
    until: float
    previous: str = ""
    granted_by: Peer | None = None
    asked_at: float = 0.0
    """When the extension was written that led to it."""
    is_told: bool = True
    """Whether the answer with this id is there, or may still come."""


@dataclass(eq=False)
class Peer:
    """A gateway's end of a connection."""

    link: int
    phase: str = "connected"
    cause: str = ""
    """Why it forwards nothing any more."""
    pending: dict[str, Dispatch] = field(default_factory=dict)
    """By request id, what was forwarded and has no acknowledgement yet."""
    counted: set[Delivery] = field(default_factory=set)
    inbox: list[Written] = field(default_factory=list)
    """What the worker wrote, and no handler has got to yet."""
    outbox: deque[tuple[bytes, Lease | None]] = field(default_factory=deque)
    """What was written for the worker, and has not come there yet."""
    is_cut: bool = False
    """Whether the network is gone between the two."""


class StrictGateway:
    """Every gateway and the state behind them.

    Args:
        clock: The time in seconds.
        honour_previous: Whether an extension under the lease id before is answered
            with the present one, as since 1.41.
    """

    def __init__(self, clock: Callable[[], float], *, honour_previous: bool) -> None:
        self._clock = clock
        self._honour_previous = honour_previous
        self._last_id = 0
        self.peers: list[Peer] = []
        self.dispatches: list[Dispatch] = []
        self.leases: dict[str, Lease] = {}
        """By request id."""
        self.issued: dict[str, Delivery] = {}
        """Every lease id that there ever was, and what whoever got it has it for."""
        self.saved: defaultdict[str, set[bytes]] = defaultdict(set)
        """The bodies of the replies by request id."""
        self.void: list[tuple[Delivery, str]] = []
        """Acknowledgements that did not count, and why."""
        self.unfair: list[str] = []
        """What the worker brought upon itself."""

    # Executors

    def dispatch(self, request_id: str) -> Dispatch:
        """Lease a request anew; its last lease is over, or forgotten."""
        for older in self.dispatches:
            if older.delivery.request_id == request_id:
                older.is_waiting = False
        lease_id = self._new_id()
        dispatch = Dispatch(Delivery(request_id, lease_id))
        self._issue(Lease(lease_id, dispatch, self._clock() + LEASE_DURATION))
        self.dispatches.append(dispatch)
        return dispatch

    def is_leased(self, request_id: str) -> bool:
        lease = self.leases.get(request_id)
        return lease is not None and lease.until > self._clock()

    def forget(self, request_id: str) -> None:
        """Amnesia: the lease is deleted; nobody waits for the request."""
        self.leases.pop(request_id, None)
        for each in self.dispatches:
            if each.delivery.request_id == request_id:
                each.is_waiting = False

    def give_elsewhere(self, dispatch: Dispatch) -> None:
        dispatch.is_waiting, dispatch.elsewhere = False, True

    def extend_elsewhere(self, dispatch: Dispatch) -> None:
        """The worker that has it extends the lease."""
        lease = self.leases.get(dispatch.delivery.request_id)
        if lease is not None and lease.dispatch is dispatch:
            self._issue(Lease(self._new_id(), dispatch, self._clock() + LEASE_DURATION))

    def _new_id(self) -> str:
        self._last_id += 1
        return f"{self._last_id:026d}"

    def _issue(self, lease: Lease) -> None:
        self.leases[lease.dispatch.delivery.request_id] = lease
        self.issued[lease.id] = lease.dispatch.delivery

    # Connections

    def forward(self, dispatch: Dispatch, peer: Peer) -> None:
        """Send a request; it is the same, with its first lease id, each time."""
        assert dispatch.is_waiting
        assert peer.phase == "ready"
        dispatch.is_waiting = False
        dispatch.forwards += 1
        peer.pending[dispatch.delivery.request_id] = dispatch
        self._send(dispatch, peer)

    def _send(self, dispatch: Dispatch, peer: Peer) -> None:
        data = wire.GatewayExecutorRequestData(
            request_id=dispatch.delivery.request_id,
            lease_id=dispatch.delivery.lease_id,
            app_name="app",
            function_slug="app-f",
            system_trace_ctx=b"{}",
        )
        self._write(peer, wire.GATEWAY_EXECUTOR_REQUEST, data.SerializeToString())

    def begin_drain(self, peer: Peer, crossing: Dispatch | None = None) -> None:
        """The gateway closes: it gives back what is not acknowledged, then says so.

        A request that was to be written just then may come behind that.
        """
        self._advance(peer, "draining", "closing")
        self._write(peer, wire.GATEWAY_CLOSING)
        if crossing is not None:
            crossing.forwards += 1
            self._send(crossing, peer)

    def cut(self, peer: Peer) -> None:
        """The network fails: what is under way to the worker is lost."""
        peer.is_cut = True
        while peer.outbox:
            self._lose(peer.outbox.popleft()[1])

    def end(self, peer: Peer) -> None:
        """The gateway notices that a connection is gone."""
        self._advance(peer, "closed", "lost")
        self.cut(peer)
        peer.inbox.clear()
        if peer in self.peers:
            self.peers.remove(peer)

    def _advance(self, peer: Peer, phase: str, cause: str) -> None:
        peer.phase = phase
        peer.cause = peer.cause or cause
        for dispatch in peer.pending.values():
            lease = self.leases.get(dispatch.delivery.request_id)
            if (
                dispatch.forwards < MAX_FORWARDS
                and lease is not None
                and lease.dispatch is dispatch
            ):
                dispatch.is_waiting = True
        peer.pending.clear()

    def _write(
        self,
        peer: Peer,
        kind: int,
        payload: bytes = b"",
        granted: Lease | None = None,
    ) -> None:
        is_early = peer.phase == "connected" and kind in ONCE_READY
        if peer.is_cut or peer.phase == "closed" or is_early:
            self._lose(granted)
        else:
            peer.outbox.append((frame(kind, payload), granted))

    @staticmethod
    def _lose(granted: Lease | None) -> None:
        if granted is not None:
            granted.is_told = False

    # What workers write

    def next_frames(self, peer: Peer) -> list[Written]:
        """What a handler may take next: they overtake each other, but control
        messages, which one handler takes."""
        control = [each for each in peer.inbox if each.kind in CONTROL]
        closing = [each for each in peer.inbox if each.kind is None]
        others = (*control, *closing)
        data = [each for each in peer.inbox if each not in others]
        return [*control[:1], *data[:DATA_HANDLERS], *closing]

    def handle(self, peer: Peer, written: Written, *, rest: bool = True) -> None:
        """Handle a frame; of what came before a close frame, the ``rest`` or not."""
        if written.kind in (None, wire.WORKER_PAUSE):
            # Whatever a worker may hope for when it has waited that long.
            for ack in list(peer.inbox):
                waited = written.at - ack.at >= PAUSE_GAP - EXACT
                if ack.kind == wire.WORKER_REQUEST_ACK and waited:
                    self.handle(peer, ack)
        if written.kind is None:
            peer.inbox.remove(written)
            while rest and peer.inbox:
                self.handle(peer, peer.inbox[0])
            for lost in peer.inbox:
                if lost.kind == wire.WORKER_REQUEST_ACK and lost.delivery:
                    self.void.append((lost.delivery, peer.cause or "close"))
            self._advance(peer, "disconnecting", "close")
            peer.inbox.clear()
            return
        peer.inbox.remove(written)
        if written.kind == wire.WORKER_HEARTBEAT:
            self._write(peer, wire.GATEWAY_HEARTBEAT)
        elif written.kind == wire.WORKER_READY and peer.phase == "connected":
            peer.phase = "ready"
        elif written.kind == wire.WORKER_PAUSE:
            self._advance(peer, "draining", "pause")
        elif written.kind == wire.WORKER_REQUEST_ACK:
            self._acknowledge(peer, written)
        elif written.kind == wire.WORKER_REQUEST_EXTEND_LEASE:
            self._extend(peer, written)
        elif written.kind == wire.WORKER_REPLY:
            reply = wire.SDKResponse.FromString(written.payload)
            self.save(reply)
            data = wire.WorkerReplyAckData(request_id=reply.request_id)
            self._write(peer, wire.WORKER_REPLY_ACK, data.SerializeToString())

    def save(self, reply: wire.SDKResponse) -> None:
        """Keep a reply, however it came; the executor has it at once."""
        self.saved[reply.request_id].add(reply.body)
        self.forget(reply.request_id)

    def _acknowledge(self, peer: Peer, written: Written) -> None:
        data = wire.WorkerRequestAckData.FromString(written.payload)
        assert written.delivery is not None
        if peer.pending.pop(data.request_id, None) is not None:
            peer.counted.add(written.delivery)
        elif written.delivery not in peer.counted:
            self.void.append((written.delivery, peer.cause))

    def _extend(self, peer: Peer, written: Written) -> None:
        data = wire.WorkerRequestExtendLeaseData.FromString(written.payload)
        if not ulid.valid(data.lease_id):
            self.unfair.append(f"{data.lease_id!r} is no lease id")
        granted = self._next_lease(peer, data, written.at)
        answer = wire.WorkerRequestExtendLeaseAckData(
            request_id=data.request_id,
            new_lease_id=None if granted is None else granted.id,
        )
        kind = wire.WORKER_REQUEST_EXTEND_LEASE_ACK
        self._write(peer, kind, answer.SerializeToString(), granted)

    def _next_lease(
        self, peer: Peer, data: wire.WorkerRequestExtendLeaseData, asked_at: float
    ) -> Lease | None:
        lease = self.leases.get(data.request_id)
        if lease is None:
            return None
        dispatch = lease.dispatch
        is_same = self.issued[data.lease_id] == dispatch.delivery
        if lease.id != data.lease_id and lease.until > self._clock():
            if is_same and not dispatch.elsewhere:
                is_previous = data.lease_id == lease.previous
                # Whoever asks so knows no better, or did not wait for an answer.
                waits = lease.is_told and lease.granted_by is not peer
                is_later = asked_at > lease.asked_at and not peer.is_cut
                if is_previous and waits and is_later:
                    self.unfair.append(f"{data.request_id} was extended over two links")
                if is_previous and self._honour_previous:
                    lease.is_told, lease.granted_by = True, peer
                    return lease
            return None
        new = Lease(
            self._new_id(),
            dispatch,
            self._clock() + LEASE_DURATION,
            previous=lease.id,
            granted_by=peer,
            asked_at=asked_at,
            # One that has run out goes to whoever asks, whatever he asks for.
            is_told=is_same,
        )
        self._issue(new)
        self.issued[new.id] = self.issued[data.lease_id]
        return new
