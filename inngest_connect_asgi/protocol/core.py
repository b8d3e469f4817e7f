"""What a Connect worker does next: a state machine without I/O.

The runtime reports what happened (a frame came, a socket was lost, time passed)
and gets back a list of actions to carry out. The core never reads a clock, opens
a socket or starts a thread: ``now`` is always an argument, in seconds of any
monotonic clock.

It is made of parts, each with a state of its own (``parts`` puts them together), and
alone brings what they do into an order:

============== =======================================================================
part           decides
============== =======================================================================
``connecting`` to which gateway to connect, and whether that succeeds
``losing``     what the loss of a connection means, and when to make another
``links``      which connection is live; heartbeats, pauses and closes on each
``taking``     which requests to acknowledge, and how long to extend their leases
``delivering`` how a reply gets to the server, and when to give it up
``stalling``   whether the app's event loop answers, and what to do if not
``ending``     when to stop, and what is given up then
``telling``    what is logged, and when the app is told of the state
============== =======================================================================

Protocol facts are from the Inngest SDK specification (``docs/SDK_SPEC.md``
section 8 of inngest/inngest) and the gateway's source (``pkg/connect``).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from ..configuration import Configuration
from ..messages import Adopt, Delivered, Delivery, Result, Start, Starved
from . import frames, snapshot
from .actions import Action, Finish, Send, SendReply, Tell
from .link import Link, Phase
from .parts import Parts
from .takeover import adopt, take_over
from .wire import connect as wire

__all__ = ["Core"]

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
        via: By which proxy a URL is reached, for a message.
    """

    def __init__(
        self,
        configuration: Configuration,
        *,
        rng: random.Random | None = None,
        epoch: float = 0.0,
        via: Callable[[str], str] = lambda url: "",
    ) -> None:
        self.parts = parts = Parts(configuration, rng or random.Random(), epoch, via)
        self.connecting = parts.connecting
        self.losing = parts.losing
        self.links = parts.links
        self.taking = parts.taking
        self.delivering = parts.delivering
        self.stalling = parts.stalling
        self.ending = parts.ending
        self.telling = parts.telling
        self.replies = parts.replies
        self.deliveries = parts.deliveries
        self.leases = parts.leases
        self.wants = parts.wants

    # What happens at the app's side.

    def start(self, start: Start, now: float) -> list[Action]:
        """Connect, before anything else, and go on where another runtime has left off.

        Whether that one acknowledged what it had offered, nobody says: the server
        extends the lease in any case. If it did not, the server sends the request again
        at once; if it did, once the lease is over.
        """
        take_over(self.parts, start, now)
        self.stalling.watch.start(now)
        self.connecting.connect(now)
        return self._take(now)

    def result(self, result: Result, now: float) -> list[Action]:
        """A function returned, or the app was asked for a reply again: reply."""
        delivery = result.lease.delivery
        reply = self.replies.get(delivery)
        if reply is not None:
            self.delivering.send_again(reply, result)
            return self._take(now)
        if self.deliveries.is_settled(delivery):
            # Of a runtime that died: the app had not heard of it yet.
            self.telling.do(Tell(Delivered(delivery)))
        elif self.deliveries.is_superseded(delivery):
            self.delivering.drop(result.lease, now)
        else:
            self.leases.answer(delivery, now)
            self.delivering.add(result)
        self.telling.touch(now)
        return self._take(now)

    def drain(self, timeout: float, now: float) -> list[Action]:
        """Take no new requests, let the running ones finish, and stop.

        Args:
            timeout: Seconds after which to stop in any case.
        """
        self.ending.begin(now + timeout, now)
        return self._take(now)

    def leave(self, now: float) -> list[Action]:
        """Take no new requests, and end: another runtime goes on with what there is.

        It ends as soon as it is clear under which ids leases are held, and which
        replies the server has. Nothing is given up, and nothing extended any more.
        """
        self.ending.leave(now)
        return self._take(now)

    def adopt(self, adopted: Adopt, now: float) -> list[Action]:
        """Go on with what another runtime has left; more may have come of it since."""
        adopt(self.parts, adopted, now)
        return self._take(now)

    def pong(self, number: int, now: float) -> list[Action]:
        """The app's event loop has answered a ping."""
        self.parts.pong(number, now)
        return self._take(now)

    # What happens at the server's side.

    def start_answered(
        self, link_id: int, status: int, body: bytes, now: float
    ) -> list[Action]:
        """The start call was answered."""
        link = self.links.get(link_id)
        if link is None or link.phase is not Phase.STARTING:
            return []
        self.connecting.start_answered(link, status, body, now)
        return self._take(now)

    def opened(self, link_id: int, now: float) -> list[Action]:
        """The WebSocket is open."""
        link = self.links.get(link_id)
        if link is not None and link.phase is Phase.OPENING:
            link.enter(Phase.GREETING, now)
        return self._take(now)

    def received(self, link_id: int, data: bytes | str, now: float) -> list[Action]:
        """A WebSocket message came."""
        link = self.links.get(link_id)
        if link is None:
            return []
        try:
            message = frames.decode(data)
            if link.connecting:
                self.connecting.handshake(link, message, now)
            elif link.phase is not Phase.CLOSING or message.kind in _ANSWERS:
                self._handle(link, message, now)
        except frames.Malformed as error:
            self.parts.malformed += 1
            if link.connecting:
                text = f"the gateway sent {error} in the handshake"
                self.losing.fail(link, text, now)
            else:
                text = f"Ignored {error} from the gateway"
                self.telling.warn(f"malformed {error}", text, now)
        return self._take(now)

    def _handle(self, link: Link, message: wire.ConnectMessage, now: float) -> None:
        kind = message.kind
        if kind == wire.GATEWAY_EXECUTOR_REQUEST:
            self.taking.request(link, frames.executor_request(message.payload), now)
        elif kind == wire.GATEWAY_HEARTBEAT:
            self.links.heartbeat_answered(link, now)
        elif kind == wire.WORKER_REPLY_ACK:
            self.delivering.acked(link, message.payload, now)
        elif kind == wire.WORKER_REQUEST_EXTEND_LEASE_ACK:
            self.taking.extended(link, message.payload, now)
        elif kind == wire.GATEWAY_CLOSING:
            if link is self.links.live:
                # It gave back what was not acknowledged before it said so.
                self.losing.gateway_closing(link, now)
                self.taking.withdraw(link)
        else:
            self.parts.malformed += 1
            name = frames.name(kind)
            text = f"Ignored an unexpected {name} from the gateway"
            self.telling.warn(f"kind {kind}", text, now)

    def sent(self, frame: Send | SendReply, now: float) -> list[Action]:
        """A frame that bears a delivery is on the wire."""
        if isinstance(frame, SendReply):
            self.delivering.sent(frame, now)
        elif (link := self.links.get(frame.link)) is not None:
            assert frame.delivery is not None
            self.taking.acknowledged(link, frame.delivery, now)
        return self._take(now)

    def lost(self, link_id: int, reason: str, now: float) -> list[Action]:
        """The start call failed, or the WebSocket was closed or never opened.

        Args:
            reason: The reason in the close frame, or what else went wrong.
        """
        link = self.links.get(link_id)
        if link is not None:
            self.losing.lose(link, reason, now)
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
        self.delivering.flush_answered(delivery, status, body, now, error)
        return self._take(now)

    # Time.

    def tick(self, now: float) -> list[Action]:
        """Time has passed: do what is due."""
        self.parts.tick(now)
        return self._take(now)

    def late(self, seconds: float, now: float) -> list[Action]:
        """The runtime's loop got to what was due only ``seconds`` later."""
        if self.parts.lateness.add(seconds, now):
            self.telling.do(Tell(Starved(seconds)))
            self.telling.touch(now)
        return self._take(now)

    def next_tick(self) -> float | None:
        """When to call :meth:`tick`, unless something happens before."""
        return self.parts.next_tick()

    # What follows from every event.

    def _take(self, now: float) -> list[Action]:
        """What all has been decided, and what follows from it."""
        state_at = self.telling.state_at
        if not (
            self.links.changed
            or self.links.several
            or self.replies.waiting
            or self.ending.begun
            or state_at is None
            or state_at <= now
        ):
            # Nothing does; so it is with nearly all that comes.
            return self.telling.take()
        if self.ending.finished:
            # Two events of one turn: the first was the end.
            self.telling.take()
            return []
        if self.links.several:
            self.parts.retire(now)
        if self.replies.waiting and not self.ending.leaves:
            self.delivering.give_up_overflow(now)
            self.delivering.flush(now)
        if self.ending.begun and self.ending.wind_up(now):
            self.losing.retry_at = None
        snapshot.tell(self.parts, now)
        if self.ending.finished:
            self.telling.do(Finish())
        return self.telling.take()
