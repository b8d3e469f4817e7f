"""What may happen to a worker, step by step, and what must hold after each of them.

:data:`STEPS` are for whoever chooses: see ``test_core_model.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from inngest_connect_asgi.messages import Delivery
from inngest_connect_asgi.protocol import snapshot

from .shell import Shell, Socket
from .strict_gateway import Dispatch, Peer

__all__ = ["CHECKS", "OPTIONS", "STEPS", "Step", "World"]

MAX_RUNNING = 5
WHICH = tuple(range(6))

OPTIONS: dict[str, tuple[Any, ...]] = {
    "honour_previous": (False, True),
    "stall_timeout": (None, 2.0),
    "reply_buffer_size": (10_000, 70),
    "status": ("", "3s"),
    "requests": (0, 1, 2, 3),
}


class Step(NamedTuple):
    function: Callable[..., None]
    is_possible: Callable[[Any], Any]
    values: dict[str, tuple[Any, ...]]

    @property
    def name(self) -> str:
        return self.function.__name__


STEPS: list[Step] = []
CHECKS: list[Callable[[Any], None]] = []


def step(
    is_possible: Callable[[Any], Any] = lambda self: True, **values: tuple[Any, ...]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """One thing that may happen, and with which values."""

    def note(function: Callable[..., None]) -> Callable[..., None]:
        STEPS.append(Step(function, is_possible, values))
        return function

    return note


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS.append(function)
    return function


class World:
    """A worker, the strict gateway, and all that is between them."""

    def __init__(
        self,
        honour_previous: bool,
        stall_timeout: float | None,
        reply_buffer_size: int,
        status: str,
        requests: int,
    ) -> None:
        self.steps = 0
        self.sent = 0
        self.status = status
        self.is_small = reply_buffer_size < 100
        self.shell = Shell(
            honour_previous=honour_previous,
            stall_timeout=stall_timeout,
            reply_buffer_size=reply_buffer_size,
        )
        self.gateway = self.shell.gateway
        self.shell.connect(status=status)
        self.shell.serve()
        for _ in range(requests):
            self.request_is_sent(0, 0, fresh=True)
            self.shell.serve()

    @property
    def is_alive(self) -> bool:
        return not self.shell.is_finished

    def socket(self, which: int) -> Socket:
        sockets = list(self.shell.sockets.values())
        return sockets[which % len(sockets)]

    def peer(self, which: int) -> Peer:
        return self.gateway.peers[which % len(self.gateway.peers)]

    def ready_peers(self) -> list[Peer]:
        return [peer for peer in self.gateway.peers if peer.phase == "ready"]

    def pause_at(self) -> float | None:
        core = self.shell.core
        return core.stalling.pause_at(stopping=core.parts.stopping)

    # Time

    @step(lambda self: self.is_alive, seconds=(0.01, 0.05, 0.3, 1.0, 2.0, 5.0, 21.0))
    def time_passes(self, seconds: float) -> None:
        self.shell.advance(seconds, served=True)

    @step(lambda self: self.is_alive, seconds=(0.01, 0.05, 0.3, 1.0, 5.0, 11.0, 40.0))
    def time_passes_in_silence(self, seconds: float) -> None:
        self.shell.advance(seconds, served=False)

    @step(lambda self: self.is_alive, seconds=(0.02, 0.5, 3.0))
    def runtime_is_starved(self, seconds: float) -> None:
        self.shell.starve(seconds)

    # Connections

    @step(lambda self: self.is_alive and self.shell.core.links.live is None)
    def a_connection_is_made(self) -> None:
        self.shell.advance(0.3, served=False)
        if self.shell.starts:
            self.shell.connect(status=self.status)

    @step(lambda self: self.shell.starts, fails=(False, False, False, True))
    def start_is_answered(self, fails: bool) -> None:
        if fails:
            self.shell.lose(next(iter(self.shell.starts)), "unreachable")
        else:
            self.shell.connect(status=self.status)

    @step(lambda self: self.ready_peers(), which=WHICH, crosses=(False, True))
    def gateway_closes(self, which: int, crosses: bool) -> None:
        ready = self.ready_peers()
        crossing = None
        if crosses:
            self.sent += 1
            crossing = self.gateway.dispatch(f"r{self.sent}")
        self.gateway.begin_drain(ready[which % len(ready)], crossing)

    @step(
        lambda self: self.ready_peers(),
        which=WHICH,
        arrives=(False, True),
        handles=(False, True),
    )
    def worker_moves(self, which: int, arrives: bool, handles: bool) -> None:
        """All of the above at once, or the rest would rarely find two connections.

        One request is given back, as the acknowledgement is too late.
        """
        self.request_is_sent(which, which, fresh=True)
        self.all_is_read()
        self.gateway_closes(which, crosses=not arrives)
        self.all_is_read()
        self.shell.advance(0.3, served=False)
        if arrives and self.shell.starts:
            self.shell.connect(status=self.status)
        if handles:
            for peer in list(self.gateway.peers):
                if peer.phase == "connected" and peer.inbox:
                    self.gateway.handle(peer, peer.inbox[0])
            self.request_is_forwarded(-1, which, elsewhere=False)

    def all_is_read(self) -> None:
        for socket in list(self.shell.sockets.values()):
            self.shell.arrive(socket, 9)

    @step(lambda self: self.shell.sockets, which=WHICH, is_told=(True, True, False))
    def connection_is_lost(self, which: int, is_told: bool) -> None:
        socket = self.socket(which)
        self.gateway.cut(socket.peer)
        if is_told:
            self.shell.lose(socket.peer.link)

    @step(lambda self: self.gateway.peers, which=WHICH)
    def gateway_notices_a_loss(self, which: int) -> None:
        peer = self.peer(which)
        if peer.is_cut:
            self.gateway.end(peer)

    # What is under way

    @step(lambda self: self.is_alive)
    def all_arrives(self) -> None:
        self.shell.serve()

    @step(
        lambda self: any(peer.inbox for peer in self.gateway.peers),
        which=WHICH,
        frame=WHICH,
        rest=(False, True),
    )
    def gateway_handles_a_frame(self, which: int, frame: int, rest: bool) -> None:
        busy = [peer for peer in self.gateway.peers if peer.inbox]
        peer = busy[which % len(busy)]
        frames = self.gateway.next_frames(peer)
        self.gateway.handle(peer, frames[frame % len(frames)], rest=rest)

    @step(
        lambda self: any(peer.outbox for peer in self.gateway.peers),
        which=WHICH,
        count=(1, 2, 9),
    )
    def worker_reads(self, which: int, count: int) -> None:
        sockets = [s for s in self.shell.sockets.values() if s.peer.outbox]
        if sockets:
            self.shell.arrive(sockets[which % len(sockets)], count)

    @step(lambda self: self.shell.sockets, which=WHICH, is_slow=(True, True, False))
    def socket_takes_no_more(self, which: int, is_slow: bool) -> None:
        socket = self.socket(which)
        socket.is_paused, socket.is_slow = True, is_slow

    @step(
        lambda self: any(each.is_paused for each in self.shell.sockets.values()),
        is_slow=(False, True),
    )
    def sockets_take_more(self, is_slow: bool) -> None:
        for socket in self.shell.sockets.values():
            socket.is_paused, socket.is_slow = False, is_slow
        self.shell.end_turn()

    @step(defers=(False, True))
    def app_reads(self, defers: bool) -> None:
        if defers:
            self.shell.defers = True
        else:
            self.shell.read_on()

    # Requests

    @step(
        lambda self: len(self.shell.app.running) < MAX_RUNNING,
        which=WHICH,
        where=WHICH,
        fresh=(False, True),
    )
    def request_is_sent(self, which: int, where: int, fresh: bool) -> None:
        """One more, or one that the server knows, whose lease is over."""
        known = dict.fromkeys(d.delivery.request_id for d in self.gateway.dispatches)
        over = [each for each in known if not self.gateway.is_leased(each)]
        if fresh or not over:
            self.sent += 1
            request_id = f"r{self.sent}"
        else:
            request_id = over[which % len(over)]
        dispatch = self.gateway.dispatch(request_id)
        if ready := self.ready_peers():
            self.gateway.forward(dispatch, ready[where % len(ready)])

    def waiting(self) -> list[Dispatch]:
        return [each for each in self.gateway.dispatches if each.is_waiting]

    @step(
        lambda self: self.waiting(),
        which=WHICH,
        where=WHICH,
        elsewhere=(False, False, True),
    )
    def request_is_forwarded(self, which: int, where: int, elsewhere: bool) -> None:
        """For the first time, or again."""
        waiting, ready = self.waiting(), self.ready_peers()
        if not waiting:
            return
        dispatch = waiting[which % len(waiting)]
        if elsewhere:
            self.gateway.give_elsewhere(dispatch)
        elif ready:
            self.gateway.forward(dispatch, ready[where % len(ready)])

    @step(
        lambda self: self.gateway.leases, which=WHICH, where=WHICH, again=(False, True)
    )
    def lease_is_forgotten(self, which: int, where: int, again: bool) -> None:
        """By a server that may send the same request, under a new lease."""
        leased = list(self.gateway.leases)
        request_id = leased[which % len(leased)]
        self.gateway.forget(request_id)
        ready = self.ready_peers()
        if again and ready:
            dispatch = self.gateway.dispatch(request_id)
            self.gateway.forward(dispatch, ready[where % len(ready)])

    @step(
        lambda self: self.shell.app.held and self.ready_peers(),
        which=WHICH,
        where=WHICH,
        ends=(True, True, False),
        reads=(True, True, False),
    )
    def request_overtakes(
        self, which: int, where: int, ends: bool, reads: bool
    ) -> None:
        """It comes anew before the server has handled the reply to the one before."""
        held = [each for each in self.shell.app.running if each in self.shell.app.held]
        delivery = held[which % len(held)]
        if ends:
            self.shell.app.end_run(delivery)
            self.shell.get_mail()
        self.gateway.forget(delivery.request_id)
        ready = self.ready_peers()
        dispatch = self.gateway.dispatch(delivery.request_id)
        self.gateway.forward(dispatch, ready[where % len(ready)])
        if reads:
            self.all_is_read()

    @step(lambda self: any(d.elsewhere for d in self.gateway.dispatches))
    def other_worker_extends(self) -> None:
        for dispatch in self.gateway.dispatches:
            if dispatch.elsewhere:
                self.gateway.extend_elsewhere(dispatch)

    # The app and its runtime

    @step(
        lambda self: self.shell.app.running and self.is_alive,
        which=WHICH,
        count=(1, 1, 3),
        status=(200, 206, 500),
        at_once=(True, True, False),
    )
    def functions_end(self, which: int, count: int, status: int, at_once: bool) -> None:
        running = list(self.shell.app.running)
        for delivery in running[which:][:count] or running[:1]:
            self.shell.app.end_run(delivery, status)
        if at_once:
            self.shell.get_mail()

    @step(lambda self: self.shell.app.mailbox)
    def runtime_gets_mail(self) -> None:
        self.shell.get_mail()

    @step(lambda self: self.shell.app.pings and self.is_alive)
    def app_answers(self) -> None:
        self.shell.pong()

    @step(
        lambda self: self.pause_at() and self.ready_peers(),
        which=WHICH,
        wait=(0.0, 0.02, 0.1),
    )
    def app_stalls(self, which: int, wait: float) -> None:
        """And answers again, just behind the acknowledgement of one more request."""
        shell = self.shell
        pause_at = self.pause_at()
        assert pause_at is not None
        shell.advance(max(0.0, pause_at - shell.now - 0.01), served=True)
        self.request_is_sent(which, which, fresh=True)
        self.all_is_read()
        shell.advance(0.01, served=False)
        shell.pong()
        if shell.starts:
            shell.connect(status=self.status)
        shell.advance(wait, served=False)

    @step(
        lambda self: self.shell.core.links.live and self.shell.app.running,
        is_told=(False, True),
    )
    def replies_crowd(self, is_told: bool) -> None:
        """Some are asked for as there is room, and then the link is lost."""
        self.functions_end(0, count=3, status=200, at_once=True)
        self.all_is_read()
        self.connection_is_lost(-1, is_told)
        self.functions_end(0, count=3, status=200, at_once=False)

    @step(lambda self: self.shell.flushes, status=(200, 200, 0, 503))
    def flush_is_answered(self, status: int) -> None:
        self.shell.answer_flush(status)

    @step(lambda self: self.steps > 10 and self.is_alive, half_written=(False, True))
    def runtime_crashes(self, half_written: bool) -> None:
        self.shell.crash(half_written=half_written)

    @step(
        lambda self: (
            self.steps > 20 and self.is_alive and not self.shell.core.parts.stopping
        ),
        timeout=(1.0, 30.0),
    )
    def app_shuts_down(self, timeout: float) -> None:
        self.shell.drain(timeout)

    # What must hold

    @check
    def no_void_acknowledgement_is_run(self) -> None:
        """But one that was on its way when the gateway began to close."""
        self.steps += 1
        shell, gateway = self.shell, self.gateway
        void, gateway.void = gateway.void, []
        for delivery, cause in void:
            counted = any(delivery in peer.counted for peer in gateway.peers)
            if cause in ("pause", "close") and not counted and not shell.is_timed_out:
                assert delivery not in shell.app.held, f"{delivery}: {cause}"

    @check
    def the_gateway_has_no_complaint(self) -> None:
        assert not self.gateway.unfair

    @check
    def what_was_offered_is_kept_until_it_is_decided(self) -> None:
        undecided: set[Delivery] = set()
        for link in self.shell.core.links:
            undecided |= set(link.unsent_acks)
        assert set(self.shell.app.offered) <= undecided

    @check
    def what_was_accepted_has_its_lease_or_its_reply(self) -> None:
        shell, core = self.shell, self.shell.core
        if shell.is_finished or shell.is_timed_out:
            return
        assert all(each in core.leases for each in shell.app.held)
        mail = {result.lease.delivery for result in shell.app.mailbox}
        assert all(each in core.replies or each in mail for each in shell.app.results)
        for delivery in shell.app.held:
            lease = core.leases.get(delivery)
            assert lease is not None
            assert lease.lease_id == shell.app.running[delivery].lease_id
        for delivery, result in shell.app.results.items():
            # What the next runtime would extend it under.
            lease = core.leases.get(delivery)
            assert lease in (None, result.lease) or delivery in mail

    @check
    def one_attempt_at_a_time(self) -> None:
        assert len(self.shell.starts) <= 1

    @check
    def never_away_for_long(self) -> None:
        core = self.shell.core
        if self.is_alive and core.links.live is None and not core.parts.stopping:
            due = core.next_tick()
            trying = self.shell.starts or self.shell.sockets
            assert trying or (due is not None and due - self.shell.now <= 27.0)

    @check
    def time_is_never_behind(self) -> None:
        if self.is_alive:
            self.shell.advance(0.0, served=False)
            self.shell.check_time()

    def end(self) -> None:
        """All is well again, and the app shuts down once its functions have ended."""
        shell = self.shell
        if shell.drained_at is None:
            for link in [*shell.starts, *shell.sockets]:
                shell.lose(link)
            shell.read_on()
            shell.pong()
            for _ in range(56):
                if not shell.starts:
                    shell.advance(0.5, served=False)
            shell.connect()
            shell.serve()
            assert snapshot.connection(shell.core.parts) == "ready"
            shell.drain(30.0)
        given_up = shell.core.replies.given_up
        rounds = 0
        while not shell.is_finished:
            shell.read_on()
            for delivery in list(shell.app.running):
                shell.app.end_run(delivery)
            shell.get_mail()
            self.sockets_take_more(False)
            shell.serve()
            while shell.flushes or shell.app.mailbox:
                if shell.flushes:
                    shell.answer_flush(200)
                shell.get_mail()
            if not shell.is_finished:
                shell.advance(0.5, served=True)
            rounds += 1
            assert rounds < 80
        assert not {*shell.starts, *shell.opening, *shell.sockets}
        assert shell.core.next_tick() is None
        assert not shell.app.offered
        if not shell.is_timed_out:
            newest = shell.app.newest
            assert not [each for each in shell.app.results if each == newest[each[0]]]
            assert shell.core.replies.given_up == given_up or self.is_small
