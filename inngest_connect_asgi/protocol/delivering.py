"""Replies on their way to the server: over a link, or by the flush API."""

from __future__ import annotations

import logging
import random
from collections import Counter

from ..configuration import Configuration
from ..messages import Delivered, Delivery, Lease, Result, Wanted
from . import frames
from .actions import Flush, SendReply, Tell
from .backoff import Backoff
from .deliveries import Deliveries
from .keys import Keys
from .link import Link
from .links import Links
from .replies import Reply
from .telling import Telling
from .wire import connect as wire

__all__ = ["Delivering"]

ACK_TIMEOUT = 5.0
"""Seconds that a reply waits for its ack before it is flushed (SDK_SPEC 8.7)."""

FLUSH_FIRST = 0.5
"""Seconds."""

FLUSH_CONCURRENCY = 4
REFLUSH_CONCURRENCY = 2
"""Of these, how many may have failed before: some never answer."""

SEND_WINDOW = 16 * 1024 * 1024
"""Bytes of replies that may wait to be written; the app keeps the others."""

# The flush API can never accept such a reply, or something in front of it does not:
# a connection may carry it all the same. Anything else may pass.
_UNDELIVERABLE = (400, 413)


class Delivering:
    """Every reply until the server has it, or never will."""

    def __init__(
        self,
        configuration: Configuration,
        telling: Telling,
        links: Links,
        deliveries: Deliveries,
        keys: Keys,
        rng: random.Random,
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        """How many were ``done``, ``failed`` and, of both, ``repeated``."""
        self.malformed = 0
        self._telling = telling
        self._links = links
        self._deliveries = deliveries
        self.replies = deliveries.replies
        self._keys = keys
        self._asked: set[Delivery] = set()
        """Replies that the app was asked for, to be sent over a link."""
        self._backoff = Backoff(
            first=FLUSH_FIRST, cap=configuration.reconnect_cap, rng=rng
        )
        self._flush_at = 0.0
        """When the API is asked again that failed as a whole."""
        self._flush_failed: Delivery | None = None
        """The last reply that made it look so."""
        self._flush_keys: dict[Delivery, str | None] = {}

    def add(self, result: Result) -> None:
        """Send a reply, or have it wait for its turn."""
        lease, size = result.lease, len(result.outcome.body)
        self._count(result)
        link = self._links.usable()
        reply = self.replies.add(lease, size, link.id if link else None)
        if link is None:
            pass
        elif link.queued and link.queued + size > SEND_WINDOW:
            self.replies.postpone(reply)
        else:
            link.queued += size
            self._telling.do(SendReply(link.id, result))

    def take_over(self, lease: Lease, size: int) -> None:
        """Another runtime did not deliver it."""
        if lease.delivery not in self.replies:
            self.replies.add(lease, size, None)

    def _count(self, result: Result) -> None:
        if result.repeated:
            self.outcomes["repeated"] += 1
        is_done = result.outcome.status in (200, 206)
        self.outcomes["done" if is_done else "failed"] += 1

    def send_again(self, reply: Reply, result: Result) -> None:
        """The app has sent what it was asked for."""
        delivery = reply.delivery
        if delivery in self._asked:
            self._asked.discard(delivery)
            if reply.link is not None:
                self._telling.do(SendReply(reply.link, result))
                return
        if self.replies.is_flushing(delivery) and delivery not in self._flush_keys:
            self._flush_keys[delivery] = self._keys.current
            self._telling.do(Flush(result, self._keys.current))

    # Over a link.

    def sent(self, frame: SendReply, now: float) -> None:
        """A reply is on the wire."""
        self.replies.sent(frame.delivery, frame.link, now + ACK_TIMEOUT)
        link = self._links.get(frame.link)
        if link is not None:
            link.reply_sent(frame.delivery)
            if not self._deliveries.was_superseded(frame.delivery):
                link.queued -= len(frame.result.outcome.body)
                self._ask_for_postponed(link)

    def acked(self, link: Link, payload: bytes, now: float) -> None:
        """The server has a reply.

        Raises:
            Malformed: It does not say which.
        """
        ack = frames.parse(wire.WorkerReplyAckData, payload)
        # By its request id alone it could be about an earlier delivery.
        delivery = link.reply_acked(ack.request_id)
        if delivery is not None and delivery in self.replies:
            self._settle(delivery, now)

    def _ask_for_postponed(self, link: Link) -> None:
        while link.queued < SEND_WINDOW // 2:
            reply = self.replies.next_postponed(link.id)
            if reply is None:
                return
            link.queued += reply.size
            self._asked.add(reply.delivery)
            self._telling.do(Tell(Wanted(reply.delivery)))

    @property
    def is_on_its_way(self) -> bool:
        """Whether it is open what becomes of a reply that was sent."""
        return self.replies.is_carried or bool(self.replies.flushing)

    # To the flush API.

    @property
    def next_flush(self) -> float | None:
        """When to try again, if no more is under way than may be."""
        retry = self.replies.next_retry
        if retry is None or not self._may_reflush:
            return None
        return max(retry, self._flush_at)

    @property
    def _may_reflush(self) -> bool:
        replies = self.replies
        return (
            replies.flushing < FLUSH_CONCURRENCY
            and replies.reflushing < REFLUSH_CONCURRENCY
        )

    def flush(self, now: float) -> None:
        """Ask the app for the replies that are to be flushed now."""
        while self.replies.flushing < FLUSH_CONCURRENCY:
            retry = self._may_reflush and self._flush_at <= now
            reply = self.replies.next_to_flush(now, retry=retry)
            if reply is None:
                return
            self._telling.do(Tell(Wanted(reply.delivery)))

    def flush_answered(
        self, delivery: Delivery, status: int, body: bytes, now: float, error: str
    ) -> None:
        if status == 200 and not _confirms(delivery.request_id, body):
            # A proxy has answered, or a portal. The server does not have it.
            self.malformed += 1
            status, error = 0, "the flush API answered with no FlushResponse"
        key = self._flush_keys.pop(delivery, None)
        reply = self.replies.get(delivery)
        if reply is None:
            return
        if status == 200:
            self._backoff.reset()
            self._flush_at = now
            self.replies.flushed += 1
            self._settle(delivery, now)
            return
        link = self._untried(reply)
        if status in _UNDELIVERABLE and link is None and self._links.answering:
            self.replies.given_up += 1
            self._settle(delivery, now)
            self._log_given_up(reply, error, now)
            return
        first = reply.failures == 0
        delay = self._backoff.delay(reply.failures + 1)
        if status == 401 and self._keys.switch(key) and first:
            delay, link = 0.0, None
        else:
            text = "Could not flush a reply; it is kept and tried again"
            self._telling.error(text, error, now)
        # One that fails again and again says nothing of the others.
        if _is_failing(status) and delivery != self._flush_failed:
            self._flush_failed = delivery
            self._flush_at = now + self._backoff.fail()
        if link is None:
            self.replies.flush_failed(delivery, now + delay)
        else:
            self.replies.flush_failed(delivery, now + delay, link.id)
            self.replies.postpone(reply)
            self._ask_for_postponed(link)

    def _untried(self, reply: Reply) -> Link | None:
        """A connection that may carry a reply which the API does not take.

        Something between may refuse what is large, or all that is no WebSocket.
        """
        link = self._links.answering
        if link is None or link.id == reply.tried:
            return None
        return link if self.replies.is_flushing(reply.delivery) else None

    # What becomes of them.

    def _settle(self, delivery: Delivery, now: float) -> None:
        self.replies.settle(delivery)
        self._asked.discard(delivery)
        self._deliveries.settle(delivery)
        self._telling.do(Tell(Delivered(delivery)))
        self._telling.touch(now)

    def drop(self, lease: Lease, now: float) -> None:
        """A reply is of no use any more; the app need not keep it."""
        self._asked.discard(lease.delivery)
        self._telling.do(Tell(Delivered(lease.delivery)))
        text = "Dropped a reply: the server has sent the request anew since"
        self._telling.log_of(lease, logging.INFO, text, now)

    def drop_older(self, lease: Lease, now: float) -> None:
        """Drop the reply to an earlier delivery of a request."""
        reply = self.replies.of(lease.request_id)
        if reply is None or reply.delivery == lease.delivery:
            return
        # It would be taken for the answer to what has come now.
        self._deliveries.supersede(reply.delivery)
        link = None if reply.link is None else self._links.get(reply.link)
        is_queued = self.replies.is_queued(reply.delivery)
        self.replies.settle(reply.delivery)
        self.drop(reply.lease, now)
        if link is not None and is_queued:
            link.queued -= reply.size
            self._ask_for_postponed(link)

    def give_up_overflow(self, now: float) -> None:
        for reply in self.replies.overflow():
            self._asked.discard(reply.delivery)
            self._deliveries.settle(reply.delivery)
            self._telling.do(Tell(Delivered(reply.delivery)))
            self._log_given_up(reply, "the reply buffer is full", now)

    def give_up_all(self, now: float) -> None:
        for reply in list(self.replies):
            self.replies.settle(reply.delivery)
            self._deliveries.settle(reply.delivery)
            self.replies.given_up += 1
            self._log_given_up(reply, "the worker had to shut down", now)

    def _log_given_up(self, reply: Reply, why: str, now: float) -> None:
        text = f"Gave up a reply that the server has not confirmed: {why}"
        self._telling.log_of(reply.lease, logging.ERROR, text, now, size=reply.size)


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
