"""The codec does what protobuf does, whatever is written or read."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given
from hypothesis import strategies as st

from inngest_connect_asgi.protocol.wire import connect
from inngest_connect_asgi.protocol.wire.codec import DecodeError, Message

from .judge import CLASSES, agree, plain, same_as

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=150)
VALUES: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_STRING: TEXTS,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=150),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.integers(-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, (1 << 32) - 1),
    FieldDescriptor.TYPE_ENUM: st.integers(-(1 << 31), (1 << 31) - 1),
}


@st.composite
def fields(draw: st.DrawFn, kind: type[Message]) -> dict[str, Any]:
    """Arguments for a message of either; inner messages are arguments as well."""
    drawn: dict[str, Any] = {}
    for field in same_as(kind).DESCRIPTOR.fields:
        if field.message_type is None:
            values = VALUES[field.type]
        else:
            values = fields(getattr(connect, field.message_type.name))
        if field.is_repeated:
            values = st.lists(values, max_size=3)
        if draw(st.booleans()):
            drawn[field.name] = draw(values)
    return drawn


def ours(kind: type[Message], arguments: dict[str, Any]) -> Message:
    made = {}
    for field in same_as(kind).DESCRIPTOR.fields:
        if field.name not in arguments:
            continue
        value = made[field.name] = arguments[field.name]
        if field.message_type is not None:
            inner = getattr(connect, field.message_type.name)
            made[field.name] = (
                [ours(inner, each) for each in value]
                if field.is_repeated
                else ours(inner, value)
            )
    return kind(**made)


@given(st.data(), st.sampled_from(CLASSES))
def test_a_message_is_written_and_read_as_by_protobuf(
    data: st.DataObject, kind: type[Message]
) -> None:
    arguments = data.draw(fields(kind))
    message, expected = ours(kind, arguments), same_as(kind)(**arguments)
    written = message.SerializeToString()
    assert written == expected.SerializeToString()
    assert kind.FromString(written) == message
    assert plain(message) == plain(expected)
    # Twice over: the last value counts, what is repeated is added, and a message
    # within is merged.
    second = ours(kind, data.draw(fields(kind))).SerializeToString()
    assert agree(kind, written + second)


@pytest.mark.parametrize("size", [127, 128, 16383, 16384, 1 << 21, 1 << 23])
def test_a_body_of_any_size(size: int) -> None:
    body = b"x" * size
    written = connect.SDKResponse(body=body).SerializeToString()
    assert agree(connect.SDKResponse, written)
    assert connect.SDKResponse.FromString(written).body == body


# What comes.


def varint(number: int, padding: int = 0) -> bytes:
    """``padding`` more bytes than it needs."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    if padding:
        written[-1] |= 128
        written += b"\x80" * (padding - 1) + b"\x00"
    return bytes(written)


NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
VARINTS = st.one_of(
    st.builds(varint, NUMBERS),
    st.builds(varint, st.integers(0, 300), st.integers(0, 9)),
    st.sampled_from([b"\xff" * 9 + bytes([last]) for last in (0, 1, 2, 127, 128)]),
)
TAGS = st.builds(
    lambda number, wire_type, padding: varint(number << 3 | wire_type, padding),
    st.one_of(st.integers(0, 15), st.sampled_from([16, 2048, (1 << 29) - 1, 1 << 29])),
    st.sampled_from([0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7]),
    st.sampled_from([0, 0, 0, 0, 1, 3, 4]),
)
BYTES = st.one_of(
    st.binary(max_size=20),
    TEXTS.map(str.encode),
    st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xe2\x82"]),
)


def sized(inner: bytes, padding: int, wrong: int) -> bytes:
    return varint(max(0, len(inner) + wrong), padding) + inner


def payloads(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(
        sized,
        st.one_of(BYTES, inner),
        st.sampled_from([0, 0, 0, 1, 3, 4]),
        st.sampled_from([0] * 9 + [1, -1]),
    )


def group(number: int, depth: int, inner: bytes, end: int) -> bytes:
    begins, ends = varint(number << 3 | 3), varint(end << 3 | 4)
    return begins * depth + inner + ends * depth


def pieces(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A field or something like it, once and again."""
    values = st.one_of(VARINTS, payloads(inner), st.binary(min_size=4, max_size=8))
    piece = st.one_of(
        st.builds(bytes.__add__, TAGS, values),
        st.builds(bytes.__add__, st.sampled_from([b"\x0a", b"\x1a"]), payloads(inner)),
        st.builds(group, st.integers(0, 15), st.integers(1, 3), inner, st.just(3)),
        st.integers(0, 15).flatmap(
            lambda number: st.builds(
                group,
                st.just(number),
                st.sampled_from([1, 2, 98, 99, 100, 101]),
                inner,
                st.just(number),
            )
        ),
    )
    return st.lists(piece, max_size=4).map(b"".join)


@given(
    st.sampled_from(CLASSES),
    st.one_of(st.binary(max_size=60), st.recursive(st.just(b""), pieces, max_leaves=8)),
)
def test_any_bytes_are_read_as_by_protobuf(kind: type[Message], data: bytes) -> None:
    agree(kind, data)


@given(st.data(), st.sampled_from(CLASSES))
def test_a_message_with_a_flaw_is_read_as_by_protobuf(
    data: st.DataObject, kind: type[Message]
) -> None:
    written = bytearray(ours(kind, data.draw(fields(kind))).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(written)))
        length = data.draw(st.integers(0, 2))
        written[start : start + length] = data.draw(st.binary(max_size=3))
    agree(kind, bytes(written))


CONNECT = connect.WorkerConnectRequestData
ATTRIBUTES = connect.SystemAttributes
FRAME = connect.ConnectMessage
START = connect.StartRequest


@pytest.mark.parametrize(
    ("kind", "data", "is_one"),
    [
        (FRAME, b"", True),
        # A tag, or a number, or bytes that end too early.
        (FRAME, b"\x08", False),
        (FRAME, b"\x08\x80", False),
        (FRAME, b"\x80", False),
        (FRAME, b"\x12\x02x", False),
        (FRAME, b"\x12\xff\xff\xff\xff\x07", False),
        (FRAME, b"\x1a\x02x", False),
        (FRAME, b"\x19" + b"x" * 7, False),
        (FRAME, b"\x1d" + b"x" * 3, False),
        # No field has the number 0, nor one of more than 29 bits.
        (FRAME, b"\x00\x00", False),
        (FRAME, b"\x02\x00", False),
        (FRAME, b"\x80\x00\x00", False),
        (FRAME, varint((1 << 32) - 8) + b"\x00", True),
        (FRAME, varint(1 << 32) + b"\x00", False),
        # Wire types that there are not.
        (FRAME, b"\x0e\x00", False),
        (FRAME, b"\x0f\x00", False),
        # Fields that nobody knows, of each wire type.
        (FRAME, b"\x18\x01\x19" + bytes(8) + b"\x1a\x01x\x1d" + bytes(4), True),
        (FRAME, b"\x9a\x06\x01x", True),
        # A known field of another wire type is one of them.
        (FRAME, b"\x0a\x01x\x10\x01", True),
        (ATTRIBUTES, b"\x0d" + b"x" * 4 + b"\x11" + b"x" * 8, True),
        (START, b"\x08\x01", True),
        (CONNECT, b"\x18\x01\x28\x01", True),
        # Numbers of ten bytes, and of eleven; tags and sizes of five, and of six.
        (ATTRIBUTES, b"\x08" + varint(1, 9), True),
        (ATTRIBUTES, b"\x08" + varint(1, 10), False),
        (ATTRIBUTES, b"\x08" + b"\xff" * 9 + b"\x7f", True),
        (ATTRIBUTES, b"\x10" + b"\xff" * 9 + b"\x7f", True),
        (FRAME, varint(8, 4) + b"\x01", True),
        (FRAME, varint(8, 5) + b"\x01", False),
        (FRAME, b"\x12" + varint(1, 4) + b"x", True),
        (FRAME, b"\x12" + varint(1, 5) + b"x", False),
        (FRAME, b"\x1a" + varint(1, 4) + b"x", True),
        (FRAME, b"\x1a" + varint(1, 5) + b"x", False),
        # More bits than the type has.
        (ATTRIBUTES, b"\x08" + varint((1 << 32) + 5), True),
        (ATTRIBUTES, b"\x08" + varint((1 << 31) + 5), True),
        (ATTRIBUTES, b"\x10" + varint((1 << 63) + 5), True),
        (connect.SDKResponse, b"\x38" + varint(1 << 63), True),
        (connect.SDKResponse, b"\x38\x02\x50" + varint((1 << 40) + 7), True),
        (connect.SDKResponse, b"\x38\x01\x38\x00", True),
        (connect.SDKResponse, b"\x28\x63", True),
        # Text that is none, if only for a moment.
        (START, b"\x0a\x01\xff", False),
        (START, b"\x0a\x03\xed\xa0\x80", False),
        (START, b"\x0a\x02\xc0\x80", False),
        (START, b"\x0a\x04\xf0\x9f\x98\x80", True),
        (connect.FlushResponse, b"\x0a\x01\xff\x0a\x01x", False),
        # What is optional, empty and not there.
        (connect.SystemError, b"\x12\x00", True),
        (connect.WorkerRequestAckData, b"\x32\x01x\x32\x00", True),
        (CONNECT, b"\x70\x00", True),
        # Messages within.
        (CONNECT, b"\x1a\x00", True),
        (CONNECT, b"\x1a\x03\x0a\x01a\x1a\x03\x12\x01b\x2a\x00\x2a\x00", True),
        (CONNECT, b"\x1a\x03\x0a\x02a\x1a\x00", False),
        (CONNECT, b"\x2a\x01", False),
        # Groups, which nobody knows.
        (FRAME, b"\x1b\x1c", True),
        (FRAME, b"\x0b\x08\x01\x12\x01x\x0c", True),
        (FRAME, b"\x1b", False),
        (FRAME, b"\x1c", False),
        (FRAME, b"\x1b\x24", False),
        (FRAME, b"\x1b\x0e\x1c", False),
        (FRAME, b"\x1b\x00\x01\x1c", True),
        (FRAME, group(3, 100, b"", 3), True),
        (FRAME, group(3, 101, b"", 3), False),
        (CONNECT, b"\x1a" + sized(group(3, 99, b"", 3), 0, 0), True),
        (CONNECT, b"\x1a" + sized(group(3, 100, b"", 3), 0, 0), False),
        (FRAME, b"\x1b" * 1_000_000, False),
    ],
)
def test_every_limit_is_that_of_protobuf(
    kind: type[Message], data: bytes, is_one: bool
) -> None:
    assert agree(kind, data) == is_one


# What is not written.


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ATTRIBUTES, {"cpu_cores": 1 << 31}),
        (ATTRIBUTES, {"cpu_cores": -(1 << 31) - 1}),
        (ATTRIBUTES, {"mem_bytes": 1 << 63}),
        (ATTRIBUTES, {"mem_bytes": -(1 << 63) - 1}),
        (connect.SDKResponse, {"request_version": 1 << 32}),
        (connect.SDKResponse, {"request_version": -1}),
        (connect.SDKResponse, {"run_id": "\ud800"}),
        (START, {"exclude_gateways": ["\ud800"]}),
    ],
)
def test_what_no_message_can_say(
    kind: type[Message], arguments: dict[str, object]
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        same_as(kind)(**arguments)
    with pytest.raises(ValueError):  # noqa: PT011
        kind(**arguments).SerializeToString()


def test_a_message_begins_blank() -> None:
    for kind in CLASSES:
        assert kind() == kind.FromString(b"")
        assert plain(kind()) == plain(same_as(kind)())
    # And has lists of its own.
    START.FromString(b"").exclude_gateways.append("x")
    assert not START.FromString(b"").exclude_gateways


def test_an_error_has_one_type() -> None:
    for data in (b"\x0a", b"\x0a\x01\xff", b"\x0a\x02x", b"\x00"):
        with pytest.raises(DecodeError):
            START.FromString(data)


def test_nothing_of_a_message_is_in_its_repr() -> None:
    assert "secret" not in repr(connect.AuthData(session_token="secret"))
