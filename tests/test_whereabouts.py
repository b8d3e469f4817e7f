from __future__ import annotations

import gc
import threading
import weakref

from inngest_connect_asgi.worker import whereabouts


class Payload:
    pass


def test_nothing_that_a_thread_is_at_is_kept() -> None:
    """It is looked at in the middle of a stall, where memory may be short."""
    entered, leave = threading.Event(), threading.Event()
    kept: list[weakref.ref[Payload]] = []

    def work() -> None:
        payload = Payload()
        kept.append(weakref.ref(payload))
        entered.set()
        leave.wait()

    thread = threading.Thread(target=work, name="pool-1")
    thread.start()
    entered.wait()
    gc.disable()
    try:
        assert thread.ident is not None
        assert "called by work (" in whereabouts.of_event_loop(thread.ident, "pool")
        leave.set()
        thread.join()
        assert kept[0]() is None
    finally:
        gc.enable()
