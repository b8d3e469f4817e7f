"""Requests to workers, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..protocol.wire import connect as wire
from .connection import Connection, Seen
from .log import Log

__all__ = ["Delivery"]


@dataclass(eq=False)
class Delivery:
    """A request to a worker, kept up to date."""

    request: wire.GatewayExecutorRequestData = field(repr=False)
    log: Log[Seen] = field(repr=False)
    has_executor: bool = field(default=True, repr=False)
    """Whether an executor waits for the reply, or :meth:`LocalGateway.request` sent
    the request."""
    connection: Connection | None = None
    """Where the request was sent last, or where its lease was extended last."""
    sent_to: list[Connection] = field(default_factory=list)
    acked_by: list[Connection] = field(default_factory=list)
    """The connections whose acknowledgement counted."""
    void_acks: list[Connection] = field(default_factory=list)
    """The connections whose acknowledgement did not: the gateway waited for none,
    having given the request back, or had one already."""
    lease_ids: list[str] = field(default_factory=list)
    """Every lease id handed out, the newest last."""
    extensions: int = 0
    nacks: int = 0
    reply: wire.SDKResponse | None = None
    """The first reply, over the socket or by ``flush``; the others are only
    counted."""
    replies: int = 0
    lease_until: float = 0.0
    """When the newest lease ends, by ``time.monotonic()``."""

    @property
    def request_id(self) -> str:
        return self.request.request_id

    @property
    def job_id(self) -> str:
        return self.request.job_id

    @property
    def lease_id(self) -> str:
        return self.lease_ids[-1] if self.lease_ids else ""

    def wait_for_ack(self, timeout: float = 5.0) -> Connection:
        """Return the connection that acknowledged the request.

        Raises:
            TimeoutError: none did within ``timeout`` seconds.
        """
        return self.log.wait_until(lambda: self.acked_by, timeout)[-1]

    def wait_for_reply(self, timeout: float = 5.0) -> wire.SDKResponse:
        """Return the reply.

        Raises:
            TimeoutError: there was none within ``timeout`` seconds.
        """
        self.log.wait_until(lambda: self.reply is not None, timeout)
        assert self.reply is not None
        return self.reply
