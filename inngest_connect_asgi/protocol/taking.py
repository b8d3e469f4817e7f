"""Requests: taken, acknowledged, kept by their leases, given back."""

from __future__ import annotations

import logging

from ..errors import quoted
from ..messages import Accepted, Delivery, Extended, Lease, Request, Withdrawn
from . import frames
from .actions import Send, Tell
from .deliveries import Deliveries
from .delivering import Delivering
from .leases import HeldLease
from .link import Link
from .links import Links
from .telling import Telling
from .wire import connect as wire

__all__ = ["Taking"]

FORLORN = 4
"""Intervals after which a lease is extended no more whose reply no connection carries:
those of one lease, by the server (pkg/consts). When the lease is over and the server
does not have the reply, it runs the request again (pkg/connect/grpc/proxy.go)."""


class Taking:
    """Every request from its frame to the end of its lease.

    Args:
        apps: The names of those that are connected.
    """

    def __init__(
        self,
        apps: set[str],
        telling: Telling,
        links: Links,
        deliveries: Deliveries,
        delivering: Delivering,
    ) -> None:
        self._apps = apps
        self._telling = telling
        self._links = links
        self._deliveries = deliveries
        self._delivering = delivering
        self._leases = deliveries.leases
        self._replies = deliveries.replies

    @property
    def waits(self) -> bool:
        """Whether something is held, or about to be."""
        return bool(self._leases.running) or any(
            link.unsent_acks for link in self._links
        )

    def request(self, link: Link, request: Request, now: float) -> None:
        """Acknowledge a request that came on the live link."""
        lease = request.lease
        delivery = lease.delivery
        if request.app_name not in self._apps:
            # Not acknowledged, as the specification wants it: the server will
            # find a worker that has this app.
            name = quoted(request.app_name)
            text = f"Ignored a request for the unknown app {name}"
            self._telling.warn(f"app {name}", text, now)
            return
        if link is not self._links.live or link.paused:
            # The gateway takes back what it sent before it saw WORKER_PAUSE, or said
            # that it is closing.
            return
        link.is_open = True
        if self._deliveries.was_superseded(delivery):
            return
        if not self._is_known(delivery):
            self._telling.do(Tell(request))
        link.unsent_acks[delivery] = lease
        self._telling.do(Send(link.id, frames.request_ack(lease), delivery))

    def _is_known(self, delivery: Delivery) -> bool:
        """Whether the app has this request, or has had it lately."""
        links = self._links
        if self._deliveries.is_ours(delivery):
            return True
        if links.several or links.live is None:
            return any(delivery in link.unsent_acks for link in links)
        return delivery in links.live.unsent_acks

    def acknowledged(self, link: Link, delivery: Delivery, now: float) -> None:
        """An acknowledgement is on the wire, and so the request is ours."""
        lease = link.unsent_acks.pop(delivery, None)
        if lease is None:
            return
        link.acked_at = now
        if self._deliveries.is_settled(delivery) or delivery in self._replies:
            return
        if delivery not in self._leases:
            self.take_up(lease, now)
            self._telling.do(Tell(Accepted(delivery)))
        elif not self._leases.is_extended(delivery):
            # The id of one that is extended may be newer than what comes again.
            self._leases.hold(lease, now)
            self._telling.do(Tell(Extended(delivery, lease.lease_id)))
        self._telling.touch(now)

    def take_up(self, lease: Lease, now: float, *, extend_now: bool = False) -> None:
        """Hold a lease, in the place of any other of the same request id."""
        older = self._leases.of(lease.request_id)
        if older is not None and older != lease.delivery:
            self._leases.release(older)
            self._deliveries.supersede(older)
        self._delivering.drop_older(lease, now)
        self._leases.hold(lease, now, extend_now=extend_now)

    def withdraw(self, link: Link) -> None:
        """Forget the requests that could not be acknowledged over a link."""
        unsent, link.unsent_acks = link.unsent_acks, {}
        for delivery in unsent:
            if not self._is_known(delivery):
                self._telling.do(Tell(Withdrawn(delivery)))

    def give_up_offered(self, lease: Lease, now: float) -> None:
        """Another runtime was about to acknowledge it."""
        self._telling.do(Tell(Withdrawn(lease.delivery)))
        text = (
            "The runtime died as it took a request; if the server has the "
            "acknowledgement, it will run it again when the lease is over"
        )
        self._telling.log_of(lease, logging.WARNING, text, now)

    def give_up_all(self, now: float) -> None:
        for held in list(self._leases.running.values()):
            text = "Shut down before a run finished; the server will run it elsewhere"
            self._telling.log_of(held.lease, logging.ERROR, text, now)
            self._leases.release(held.lease.delivery)

    # Leases.

    def extend(self, link: Link, now: float) -> None:
        """Extend what is due over the live link: no other is sure to answer."""
        for held in self._leases.due(now):
            lease = held.lease
            if self._is_forlorn(held, now):
                self._leases.release(lease.delivery)
            # Without an id the gateway would close the connection.
            elif lease.lease_id and not self._is_in_doubt(lease, link):
                link.extension_sent(lease)
                self._telling.do(Send(link.id, frames.extend_lease(lease)))

    def _is_forlorn(self, held: HeldLease, now: float) -> bool:
        """Whether nobody has taken its reply for so long that the server had better
        try the request again."""
        if held.answered_at is None:
            return False
        if now < held.answered_at + FORLORN * self._leases.interval:
            return False
        reply = self._replies.get(held.lease.delivery)
        return reply is None or reply.link is None

    def _is_in_doubt(self, lease: Lease, link: Link) -> bool:
        """Whether another link is about to say which id the lease has by now."""
        return any(
            lease in other.extensions.get(lease.request_id, ())
            for other in self._links
            if other is not link
        )

    def is_awaited(self, link: Link) -> bool:
        """Whether a link is still to say what became of a lease."""
        return any(
            sent[-1].delivery in self._leases for sent in link.extensions.values()
        )

    def extended(self, link: Link, payload: bytes, now: float) -> None:
        """The server has extended a lease, or refused to.

        Raises:
            Malformed: It does not say which.
        """
        answer = frames.parse(wire.WorkerRequestExtendLeaseAckData, payload)
        asked = link.extension_answered(answer.request_id)
        if asked is None:
            # Nobody asked; then it is about what is held.
            asked = self._leases.newest(answer.request_id)
        if asked is None:
            return
        delivery = asked.delivery
        if answer.new_lease_id:
            is_held = self._leases.renew(delivery, answer.new_lease_id, now)
            # Another runtime would extend it anew, for a reply that it has to deliver.
            if is_held or delivery in self._replies:
                self._telling.do(Tell(Extended(delivery, answer.new_lease_id)))
            return
        held = self._leases.get(delivery)
        if held is None or held.lease_id != asked.lease_id:
            # It refused an id that another answer has replaced.
            return
        if delivery not in self._leases.running:
            # It has the reply by now, and awaits it no more.
            self._leases.release(delivery)
            return
        lease = self._leases.lose(delivery)
        if lease is None:
            return
        text = (
            "The server took back the lease of a running request; "
            "another worker may run it too"
        )
        self._telling.log_of(lease, logging.WARNING, text, now)
        self._telling.touch(now)

    def link_gone(self, link: Link, now: float) -> None:
        self.withdraw(link)
        for sent in link.extensions.values():
            # Whether the lease is extended, this link will not say any more.
            self._leases.hurry(sent[-1].delivery, now)
