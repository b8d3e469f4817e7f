"""Whoever has an interpreter is told to leave, and waited for."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable

import pytest

from inngest_connect_asgi import logs
from inngest_connect_asgi.isolation import departures


class Guest:
    """Leaves when it is told to, unless it hangs."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.was_told = False
        self._hangs = hangs

    def give_way(self) -> None:
        self.was_told = True
        if not self._hangs:
            threading.Thread(target=departures.depart, args=(self,)).start()


@pytest.fixture(autouse=True)
def nobody_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(departures, "_here", set())
    monkeypatch.setattr(departures, "_gate", threading.Lock())
    monkeypatch.setattr(departures, "FORK_TIMEOUT", 0.05)
    monkeypatch.setattr(departures, "EXIT_TIMEOUT", 0.05)


def arrive(*guests: Guest) -> None:
    for guest in guests:
        departures.arrive(guest, lambda: None)


def test_it_hears_of_forks_and_of_the_exit_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard: list[object] = []
    monkeypatch.setattr(departures, "_registered", False)
    monkeypatch.setattr(atexit, "register", heard.append)
    monkeypatch.setattr(
        os, "register_at_fork", lambda **hooks: heard.extend(hooks.values())
    )
    arrive(Guest(), Guest())
    assert heard == [
        departures._at_exit,
        departures._before_fork,
        departures._after_fork,
        departures._in_fork,
    ]
    monkeypatch.setattr(departures, "_registered", False)
    monkeypatch.delattr(os, "register_at_fork")
    arrive(Guest())
    assert heard[4:] == [departures._at_exit]


def test_one_that_can_not_start_is_not_waited_for() -> None:
    def fail() -> None:
        raise RuntimeError("no more threads")

    with pytest.raises(RuntimeError, match="no more threads"):
        departures.arrive(Guest(), fail)
    assert departures._evict(0.0)


def test_a_fork_waits_until_all_have_left_and_nobody_comes_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(departures, "FORK_TIMEOUT", 30.0)
    guests = [Guest(), Guest()]
    arrive(*guests)
    departures._before_fork()
    assert all(guest.was_told for guest in guests)
    late = threading.Thread(target=arrive, args=(Guest(),))
    late.start()
    assert not departures._here
    departures._after_fork()
    late.join(10)
    assert len(departures._here) == 1


def test_in_the_fork_nobody_is_here() -> None:
    arrive(Guest(hangs=True))
    departures._gate.acquire()
    departures._in_fork()
    assert not departures._here
    arrive(Guest())


def test_a_fork_beside_one_that_hangs_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(logs, "emit", lambda *what: said.append(what))
    arrive(Guest(hangs=True))
    departures._before_fork()
    ((level, text),) = said
    assert level == logging.ERROR
    assert "the fork will crash" in text


def test_the_exit_waits_until_all_have_left(
    exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "EXIT_TIMEOUT", 30.0)
    guest = Guest()
    arrive(guest)
    departures._at_exit()
    assert guest.was_told
    assert not exits


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    monkeypatch.delattr(sys, "last_exc", raising=False)
    return codes


class Broken:
    flush: Callable[[], None] | None = None


@pytest.mark.parametrize("code", [0, 1])
def test_one_that_hangs_does_not_hold_the_exit(
    code: int, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(Guest(hangs=True))
    if code:
        monkeypatch.setattr(sys, "last_exc", ValueError(), raising=False)
    monkeypatch.setattr(sys, "stdout", Broken())
    departures._at_exit()
    assert exits == [code]
