"""protobuf's library, which says how it is to be."""

from __future__ import annotations

from typing import Any

from google.protobuf import message, timestamp_pb2

from inngest_connect_asgi.protocol.wire import codec, connect

from . import connect_pb2
from .source import classes

__all__ = ["CLASSES", "agree", "plain", "same_as"]

CLASSES: list[type[codec.Message]] = [
    getattr(connect, descriptor.name) for descriptor in classes()
]


def same_as(kind: type[codec.Message]) -> type[message.Message]:
    """What protobuf has for a class of ours."""
    if kind is connect.Timestamp:
        return timestamp_pb2.Timestamp
    found: type[message.Message] = getattr(connect_pb2, kind.__name__)
    return found


def plain(value: Any) -> Any:
    """What a message of either holds, to be compared: ``True`` is not 1 here."""
    if isinstance(value, codec.Message):
        return {name: plain(each) for name, each in vars(value).items()}
    if isinstance(value, message.Message):
        return {
            field.name: None
            if field.has_presence and not value.HasField(field.name)
            else plain(
                list(getattr(value, field.name))
                if field.is_repeated
                else getattr(value, field.name)
            )
            for field in value.DESCRIPTOR.fields
        }
    if isinstance(value, list):
        return [plain(each) for each in value]
    return None if value is None else (type(value), value)


def agree(kind: type[codec.Message], data: bytes) -> bool:
    """Hold the codec to what protobuf makes of some bytes.

    Returns:
        Whether they are such a message.
    """
    expected = same_as(kind)()
    try:
        expected.ParseFromString(data)
    except message.DecodeError:
        try:
            kind.FromString(data)
        except codec.DecodeError:
            return False
        raise AssertionError(f"{data!r} is no {kind.__name__}") from None
    found = kind.FromString(data)
    assert plain(found) == plain(expected)
    # Those that nobody knows are not kept.
    expected.DiscardUnknownFields()
    assert found.SerializeToString() == expected.SerializeToString()
    return True
