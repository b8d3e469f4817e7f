from __future__ import annotations

import gc
import os
import pickle
import tracemalloc
from collections.abc import Iterator

import pytest

from inngest_connect_asgi.isolation.pipe import (
    BATCH_SIZE,
    PIPE_SIZE,
    Decoder,
    Writer,
    encode,
    frame,
    greeting,
)
from inngest_connect_asgi.messages import Accepted, Delivery


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_what_the_pipe_does_not_take_is_kept_in_order(ends: tuple[int, int]) -> None:
    reader, fd = ends
    writer, decoder = Writer(fd), Decoder()
    messages = ["first", "x" * PIPE_SIZE, "last"]
    assert [writer.write(each) for each in messages] == [True, False, False]
    got: list[str] = []
    while len(got) < len(messages):
        got += decoder.feed(os.read(reader, 1000))
        writer.flush()
    assert got == messages
    assert writer.flush()


def test_a_call_back_waits_for_what_was_written_before(ends: tuple[int, int]) -> None:
    reader, fd = ends
    writer, decoder = Writer(fd), Decoder()
    read: list[int] = []
    read_when_called: list[int] = []

    def call_back() -> None:
        read_when_called.append(sum(read))
        writer.write("of the call-back")

    large = "x" * 2 * PIPE_SIZE
    writer.write(large)
    assert writer.defer(call_back)
    writer.write("later")
    got: list[str] = []
    while len(got) < 3:
        data = os.read(reader, 1000)
        read.append(len(data))
        got += decoder.feed(data)
        writer.flush()
    assert got == [large, "later", "of the call-back"]
    (when,) = read_when_called
    assert when >= PIPE_SIZE


def test_a_call_back_that_need_not_wait_is_not_kept(ends: tuple[int, int]) -> None:
    writer = Writer(ends[1])
    assert writer.write("at once")
    assert not writer.defer(lambda: pytest.fail("called"))
    assert writer.flush()


def test_the_other_end_is_gone() -> None:
    reader, fd = os.pipe()
    writer = Writer(fd)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        writer.write("to nobody")
    os.close(fd)


def test_what_is_encoded_may_be_garbage() -> None:
    # A BytesIO is closed before its buffer is released, and since 3.13 complains.
    message: list[object] = [encode("in a cycle")]
    message.append(message)
    del message
    gc.collect()


def test_what_waits_is_encoded_when_it_is_its_turn(ends: tuple[int, int]) -> None:
    reader, fd = ends
    writer, decoder = Writer(fd), Decoder()
    encoded: list[int] = []

    class Message:
        def __init__(self, number: int) -> None:
            self.number = number

        def __reduce__(self) -> tuple[type[str], tuple[str]]:
            encoded.append(self.number)
            return str, ("x" * 3 * PIPE_SIZE,)

    for number in range(3):
        writer.write(Message(number))
    assert encoded == [0]
    got: list[str] = []
    while not writer.flush():
        got += decoder.feed(os.read(reader, PIPE_SIZE))
    assert encoded == [0, 1, 2]


def test_small_messages_are_written_at_once(
    ends: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, fd = ends
    writer, decoder = Writer(fd), Decoder()
    sizes: list[int] = []
    write = os.write

    def count(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", count)
    messages = [*range(100), "x" * 2 * BATCH_SIZE, "x" * BATCH_SIZE, "last"]
    for message in messages:
        writer.put(message)
    assert writer.flush()
    # A large one ends what goes at once.
    assert len(sizes) == 3
    assert list(decoder.feed(os.read(reader, PIPE_SIZE))) == messages


def test_those_before_one_that_can_not_be_encoded_are_written(
    ends: tuple[int, int],
) -> None:
    reader, fd = ends
    writer, decoder = Writer(fd), Decoder()
    for message in ("first", lambda: None, "last"):
        writer.put(message)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        writer.flush()
    assert writer.flush()
    assert list(decoder.feed(os.read(reader, 1000))) == ["first", "last"]


def test_what_can_not_be_encoded_is_left_out(ends: tuple[int, int]) -> None:
    """Or what is to be said about it would wait behind it."""
    reader, fd = ends
    writer, decoder = Writer(fd), Decoder()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        writer.write(lambda: None)
    assert writer.write("it failed")
    assert list(decoder.feed(os.read(reader, 1000))) == ["it failed"]


def test_nothing_is_kept_of_what_is_written(ends: tuple[int, int]) -> None:
    reader, fd = ends
    writer = Writer(fd)
    tracemalloc.start()
    try:
        writer.write("x" * 3 * PIPE_SIZE)
        while not writer.flush():
            os.read(reader, PIPE_SIZE)
        held, _ = tracemalloc.get_traced_memory()
        assert held < PIPE_SIZE
    finally:
        tracemalloc.stop()


def test_a_length_that_no_message_has_is_not_waited_for() -> None:
    with pytest.raises(ValueError, match="a message of 2021161080 bytes"):
        list(Decoder().feed(b"xxxxx"))


def test_a_frame_goes_before_any_message(ends: tuple[int, int]) -> None:
    reader, fd = ends
    writer = Writer(fd)
    assert writer.write_frame(frame(b"prelude"))
    assert writer.write("first")
    data = os.read(reader, PIPE_SIZE)
    assert data.startswith(frame(b"prelude"))
    assert list(Decoder().feed(data[len(frame(b"prelude")) :])) == ["first"]


def test_a_greeting_names_its_version() -> None:
    assert greeting(3) != greeting(30)
    assert not greeting(30).startswith(greeting(3))


def test_plain_messages_and_others_come_in_order(ends: tuple[int, int]) -> None:
    reader, fd = ends
    writer = Writer(fd)
    accepted = Accepted(Delivery("request", "lease"))
    messages = [accepted, "other", accepted]
    for each in messages:
        assert writer.write(each)
    assert list(Decoder().feed(os.read(reader, PIPE_SIZE))) == messages
