from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from inngest_connect_asgi.pipe import PIPE_SIZE, Decoder, Writer, encode


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
