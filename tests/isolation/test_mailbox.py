from __future__ import annotations

import asyncio
import threading

import pytest

from inngest_connect_asgi.isolation.mailbox import Mailbox

from ..harness import run


def test_messages_of_many_threads_arrive_each_threads_in_order() -> None:
    async def main() -> None:
        got: list[tuple[int, int]] = []
        complete = asyncio.Event()

        def deliver(messages: list[tuple[int, int]]) -> None:
            got.extend(messages)
            if len(got) == 4000:
                complete.set()

        mailbox = Mailbox(asyncio.get_running_loop(), deliver)

        def post(thread: int) -> None:
            for number in range(1000):
                mailbox.post((thread, number))

        threads = [threading.Thread(target=post, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        await complete.wait()
        for thread in threads:
            thread.join()
        for number in range(4):
            assert [n for t, n in got if t == number] == list(range(1000))

    run(main)


def test_the_loop_is_woken_once_for_many_messages() -> None:
    class Loop:
        wakes = 0

        def call_soon_threadsafe(self, callback: object) -> None:
            self.wakes += 1
            self.callback = callback

    loop = Loop()
    got: list[int] = []
    mailbox: Mailbox[int] = Mailbox(loop, got.extend)  # type: ignore[arg-type]
    for number in range(100):
        assert mailbox.post(number)
    assert (loop.wakes, got) == (1, [])
    loop.callback()  # type: ignore[operator]
    assert got == list(range(100))
    mailbox.post(100)
    assert loop.wakes == 2


def test_a_closed_loop_is_told_of() -> None:
    loop = asyncio.new_event_loop()
    mailbox: Mailbox[int] = Mailbox(loop, print)
    loop.close()
    assert not mailbox.post(1)
    assert not mailbox.post(2)


def test_a_wake_up_that_fails_is_not_taken_for_one() -> None:
    class Loop:
        wakes = 0

        def call_soon_threadsafe(self, callback: object) -> None:
            self.wakes += 1
            if self.wakes == 1:
                raise MemoryError
            self.callback = callback

        def is_closed(self) -> bool:
            return False

    loop = Loop()
    got: list[int] = []
    mailbox: Mailbox[int] = Mailbox(loop, got.extend)  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        mailbox.post(1)
    # Or nothing would ever be delivered again. Nor is what failed: a request that is
    # told once more would run twice.
    assert mailbox.post(2)
    loop.callback()  # type: ignore[operator]
    assert got == [2]
