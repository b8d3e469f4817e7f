from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from inngest_connect_asgi.worker.threads import FunctionThreads


def refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_what_was_refused_never_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    ran: list[str] = []
    with FunctionThreads(4) as threads:
        first = threads.submit(release.wait)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                threads.submit(ran.append, "refused")
        release.set()
        first.result()
        # Behind the other in the pool's queue, for the same thread.
        threads.submit(ran.append, "taken").result()
    assert ran == ["taken"]


def test_what_a_free_thread_took_before_it_was_refused_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def late(pool: ThreadPoolExecutor, call: Callable[[], Any]) -> Future[Any]:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", late)
    assert FunctionThreads(1).submit(lambda: "ran").result() == "ran"


def test_what_is_raised_is_raised() -> None:
    def fail() -> None:
        raise SystemExit(3)

    with FunctionThreads(1) as threads, pytest.raises(SystemExit):
        threads.submit(fail).result()
