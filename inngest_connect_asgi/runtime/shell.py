"""The runtime: carries out on asyncio what the core decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..configuration import Configuration
from ..messages import (
    Adopt,
    Drain,
    FromApp,
    FromRuntime,
    Leave,
    Log,
    Pong,
    Result,
    Start,
)
from ..network.access import Network
from ..protocol.actions import (
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
from ..protocol.core import Core
from .api import Answer, Api
from .gateway_socket import GatewaySocket
from .timer import Timer

if TYPE_CHECKING:
    from ..health.probe import ProbeServer

__all__ = ["Runtime"]

PUNCTUAL = 0.001
"""Seconds by which a timer may be late without a word."""

Defer = Callable[[Callable[[], None]], bool]
Event = Callable[..., list[Action]]


class Runtime:
    """One worker's connection to Inngest, on the running event loop.

    It does not know where it lives: messages from the app come in by
    :meth:`receive`, messages to it go out by ``tell``.

    Args:
        tell: Takes a message to the app, which is there after ``flush``, or later.
        defer: Has a callback wait for the messages that are not there yet; returns
            ``False``, and forgets the callback, where all are.
        flush: Is called at the end of a turn of the loop in which anything was told.
    """

    def __init__(
        self,
        tell: Callable[[FromRuntime], None],
        defer: Defer = lambda _: False,
        flush: Callable[[], None] = lambda: None,
    ) -> None:
        self._tell = tell
        self._defer = defer
        self._flush = flush
        self._sockets: dict[int, GatewaySocket] = {}
        self._unwritten: dict[int, GatewaySocket] = {}
        """Those that were given something to do in this turn of the loop."""
        self._acks: list[Send] = []
        """Those of this turn. The app is to have a request before the server knows."""
        self._starts: dict[int, asyncio.Task[None]] = {}
        self._crashed: BaseException | None = None
        self._ended: asyncio.Future[None] | None = None
        self._early: list[FromApp] | None = []
        """Messages that came before the core could take them."""
        self._probe: ProbeServer | None = None

    async def run(self, start: Start) -> None:
        """Run until the core has finished.

        Raises:
            BaseException: Whatever went wrong in here; nothing is left behind.
        """
        self._configuration = configuration = start.configuration
        self._loop = asyncio.get_running_loop()
        self._network = Network()
        self._core = Core(configuration, via=self._network.via)
        self._set_epoch()
        self._timer = Timer(self._loop, self._tick)
        self._ended = self._loop.create_future()
        async with Api(configuration, self._network, self.crash) as self._api:
            try:
                if not start.beside:
                    self._probe = _start_probe(configuration, self._tell)
                self._step(self._core.start, start)
                early, self._early = self._early or [], None
                if start.drain is not None:
                    early.append(start.drain)
                self.receive(early)
                if self._crashed is not None:
                    raise self._crashed
                await self._ended
            finally:
                await self._clean_up()

    def crash(self, error: BaseException) -> None:
        """Have :meth:`run` raise, on the runtime's loop.

        Nothing that goes wrong in here is worth going on with half of it: what the
        app knows, the next runtime is told.
        """
        self._crashed = self._crashed or error
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)
            self._ended.exception()  # or asyncio logs it, where nobody waits yet

    def receive(self, messages: Sequence[FromApp]) -> None:
        """Take messages from the app, on the runtime's loop."""
        try:
            self._receive(messages)
        except BaseException as error:
            self.crash(error)

    def _receive(self, messages: Sequence[FromApp]) -> None:
        if self._early is not None:
            self._early += messages
            return
        for message in messages:
            if isinstance(message, Result):
                if self._probe is not None:
                    self._probe.observe(message)
                self._step(self._core.result, message)
            elif isinstance(message, Pong):
                self._step(self._core.pong, message.number)
            elif isinstance(message, Drain):
                self._step(self._core.drain, message.timeout)
            elif isinstance(message, Leave):
                self._step(self._core.leave)
            elif isinstance(message, Adopt):
                # Its port is free by now.
                self._probe = _start_probe(self._configuration, self._tell)
                self._step(self._core.adopt, message)
        self._end_turn()

    # The listener of the sockets.

    def opened(self, link: int) -> None:
        self._step(self._core.opened, link)
        self._end_turn()

    def received(self, link: int, messages: Sequence[bytes | str]) -> None:
        for data in messages:
            self._step(self._core.received, link, data)
        self._end_turn()

    def wants(self, frame: Send | SendReply) -> bool:
        # After a crash nobody would keep what is promised now.
        return not self._is_over and self._core.wants(frame)

    def sent(self, frames: Iterable[Send | SendReply]) -> None:
        self._report(frames)
        self._end_turn()

    def _report(self, frames: Iterable[Send | SendReply]) -> None:
        """Tell the core what is on the wire: that is so even after a crash."""
        for frame in frames:
            self._happened(self._core.sent, frame)

    def lost(self, link: int, reason: str) -> None:
        self._sockets.pop(link, None)
        self._step(self._core.lost, link, reason)
        self._end_turn()

    @property
    def _is_over(self) -> bool:
        return self._ended is None or self._ended.done()

    def _step(self, event: Event, *args: Any) -> None:
        """Report an event to the core, and do what it says, unless all is over."""
        if self._ended is not None and not self._ended.done():
            self._happened(event, *args)

    def _happened(self, event: Event, *args: Any) -> None:
        try:
            for action in event(*args, self._loop.time()):
                self._do(action)
        except BaseException as error:
            self.crash(error)

    def _end_turn(self) -> None:
        """Do once what all that happened in a turn asks for."""
        try:
            if self._acks:
                acks, self._acks = self._acks, []
                if not self._defer(partial(self._acknowledge, acks)):
                    for ack in acks:
                        self._send(ack)
            while self._unwritten:
                _, socket = self._unwritten.popitem()
                self._report(socket.write())
            if not self._is_over:
                self._timer.set(self._core.next_tick())
            self._flush()
        except BaseException as error:
            self.crash(error)

    def _do(self, action: Action) -> None:
        if isinstance(action, Tell):
            if self._probe is not None:
                self._probe.observe(action.message)
            self._tell(action.message)
        elif isinstance(action, SendReply):
            self._send(action)
        elif isinstance(action, Send):
            if action.acknowledges:
                self._acks.append(action)
            else:
                self._send(action)
        elif isinstance(action, StartLink):
            self._call_start(action)
        elif isinstance(action, Open):
            self._sockets[action.link] = GatewaySocket(
                action.link, action.url, self, self._network
            )
        elif isinstance(action, Flush):
            self._call_flush(action)
        elif isinstance(action, Close):
            if (socket := self._sockets.get(action.link)) is not None:
                socket.close(action.reason)
                self._unwritten[action.link] = socket
        elif isinstance(action, Abort):
            if (start := self._starts.pop(action.link, None)) is not None:
                start.cancel()
            if (socket := self._sockets.pop(action.link, None)) is not None:
                socket.abort()
        else:
            assert isinstance(action, Finish)
            assert self._ended is not None
            if not self._ended.done():
                self._ended.set_result(None)

    def _send(self, frame: Send | SendReply) -> None:
        if socket := self._sockets.get(frame.link):
            socket.send(frame)
            self._unwritten[frame.link] = socket

    def _acknowledge(self, acks: Sequence[Send]) -> None:
        """Acknowledge requests, now that the app has them."""
        for ack in acks:
            self._send(ack)
        self._end_turn()

    def _tick(self) -> None:
        self._set_epoch()
        due = self._timer.due
        if due is not None and (late := self._loop.time() - due) > PUNCTUAL:
            self._step(self._core.late, late)
        self._step(self._core.tick)
        self._end_turn()

    def _set_epoch(self) -> None:
        """Now and then: the system's time may be set."""
        self._core.telling.epoch = time.time() - self._loop.time()

    async def _clean_up(self) -> None:
        self._timer.cancel()
        aborted = [socket.abort() for socket in self._sockets.values()]
        await asyncio.gather(*aborted, return_exceptions=True)
        if self._probe is not None:
            await self._probe.stop()

    def _call_start(self, call: StartLink) -> None:
        def ended(answer: Answer) -> None:
            if self._starts.get(call.link) is task:
                del self._starts[call.link]
            if answer.error is None:
                event = self._core.start_answered
                self._step(event, call.link, answer.status, answer.body)
            else:
                self._step(self._core.lost, call.link, answer.error)
            self._end_turn()

        task = self._starts[call.link] = self._api.start(call, ended)

    def _call_flush(self, call: Flush) -> None:
        def ended(answer: Answer) -> None:
            event = partial(self._core.flush_answered, error=answer.error)
            self._step(event, call.delivery, answer.status, answer.body)
            self._end_turn()

        self._api.flush(call, ended)


def _start_probe(
    configuration: Configuration, tell: Callable[[FromRuntime], None]
) -> ProbeServer | None:
    if configuration.probe is None:
        return None
    # Not at the top: few want it, and it would triple what a child imports.
    from ..health.probe import start_probe

    def log(level: int, message: str) -> None:
        tell(Log(level, message))

    return start_probe(configuration, configuration.probe, log)
