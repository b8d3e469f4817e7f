"""Messages of proto3 to bytes and back, as far as ``connect.proto`` needs it.

A message is a dataclass with a table of its fields; ``scripts/generate-wire`` writes
both. What comes out is what protobuf writes, and what goes in is read or refused as
protobuf does, except that unknown fields are not kept. Its library is the judge of
that, in ``tests/protocol/wire/``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Container
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

__all__ = [
    "BOOL",
    "BYTES",
    "INT32",
    "INT64",
    "MESSAGE",
    "MESSAGES",
    "TEXT",
    "TEXTS",
    "UINT32",
    "DecodeError",
    "Message",
    "field",
    "size_of",
    "write_number",
]

# What a field holds. An enum is an INT32: a value without a name is as good.
TEXT: Final = 0
BYTES: Final = 1
BOOL: Final = 2
INT32: Final = 3
INT64: Final = 4
UINT32: Final = 5
MESSAGE: Final = 6
TEXTS: Final = 7
MESSAGES: Final = 8

# The wire types.
_VARINT, _FIXED64, _SIZED, _GROUP, _END_GROUP, _FIXED32 = range(6)

_BLANK = {
    TEXT: "",
    BYTES: b"",
    BOOL: False,
    INT32: 0,
    INT64: 0,
    UINT32: 0,
    MESSAGE: None,
}
_LIMITS = {
    BOOL: (0, 1),
    INT32: (-(1 << 31), (1 << 31) - 1),
    INT64: (-(1 << 63), (1 << 63) - 1),
    UINT32: (0, (1 << 32) - 1),
}
# A varint has 64 bits, and a number those of them that its type has.
_NUMBERS: dict[int, Callable[[int], int]] = {
    BOOL: lambda bits: bits != 0,
    INT32: lambda bits: ((bits & 0xFFFF_FFFF) ^ 1 << 31) - (1 << 31),
    INT64: lambda bits: (bits ^ 1 << 63) - (1 << 63),
    UINT32: lambda bits: bits & 0xFFFF_FFFF,
}
_BITS = (1 << 64) - 1
_BYTE = [bytes([number]) for number in range(128)]

# What protobuf allows: bytes of a number, bytes of a tag or a size, and messages and
# groups within each other.
_LONG = 10
_SHORT = 5
_DEPTH = 100

M = TypeVar("M", bound="Message")


class DecodeError(ValueError):
    """Bytes that are not the message they were taken for."""


class _Field(NamedTuple):
    number: int
    holds: int
    message: type[Message] | None
    optional: bool

    @property
    def tag(self) -> int:
        return self.number << 3 | (_VARINT if self.holds in _NUMBERS else _SIZED)


def field(
    number: int,
    holds: int,
    message: type[Message] | None = None,
    *,
    optional: bool = False,
) -> Any:
    """A field of a message, which begins blank.

    Args:
        number: Those of a class ascend, as that is the order of the bytes.
        holds: TEXT, BYTES and so on.
        message: The class of a MESSAGE, and of MESSAGES.
        optional: Whether it may be ``None``, which is not the same as empty.
    """
    wire = {"wire": _Field(number, holds, message, optional)}
    if holds in (TEXTS, MESSAGES):
        return dataclasses.field(default_factory=list, metadata=wire)
    blank = None if optional else _BLANK[holds]
    return dataclasses.field(default=blank, metadata=wire)


class Message:
    """What a message has beside its fields."""

    _blank: ClassVar[dict[str, object]]
    _lists: ClassVar[list[str]]
    _known: ClassVar[dict[int, tuple[str, int, type[Message] | None]]]
    """By tag: with another wire type than its own, a field is an unknown one."""
    _short: ClassVar[list[tuple[str, int, type[Message] | None] | None]]
    """The same by the first byte, where that is all of the tag."""
    _rows: ClassVar[list[tuple[str, bytes, int, bool]]]
    _unknown: ClassVar[re.Pattern[bytes]]
    """Many fields that it has not: a large frame of rubbish has millions."""

    def __init_subclass__(cls) -> None:
        fields: dict[str, _Field] = {
            name: value.metadata["wire"]
            for name, value in vars(cls).items()
            if isinstance(value, dataclasses.Field)
        }
        cls._blank, cls._lists, cls._known, cls._rows = {}, [], {}, []
        for name, each in fields.items():
            if each.holds in (TEXTS, MESSAGES):
                cls._lists.append(name)
            cls._blank[name] = None if each.optional else _BLANK.get(each.holds)
            cls._known[each.tag] = (name, each.holds, each.message)
            cls._rows.append((name, _varint(each.tag), each.holds, each.optional))
        cls._short = [cls._known.get(byte) for byte in range(128)] + [None] * 128
        cls._unknown = re.compile(_run(cls._known), re.DOTALL)

    @classmethod
    def FromString(cls: type[M], data: bytes) -> M:
        """Read a message.

        Raises:
            DecodeError: ``data`` is something else.
        """
        message = _new(cls)
        try:
            _merge(message, data, _DEPTH, message._begin(data))
        except (IndexError, UnicodeDecodeError) as error:
            raise DecodeError(str(error)) from error
        return message

    def _begin(self, data: bytes) -> int:
        """Read the first fields, for as long as all is in order; returns where not."""
        return 0

    def SerializeToString(self) -> bytes:
        """Write the message.

        Raises:
            ValueError: A number is too large for its type, or a text has half of a
                surrogate pair.
        """
        values = self.__dict__
        parts: list[bytes] = []
        for name, tag, holds, optional in self._rows:
            value = values[name]
            if not value and (value is None or not optional):
                continue
            if holds == TEXT:
                value = value.encode()
            elif holds != BYTES:
                _write(parts, tag, holds, value)
                continue
            parts += (tag, size_of(value), value)
        return b"".join(parts)


def _run(known: Container[int]) -> bytes:
    """A pattern of fields that are not known, with tags of one byte.

    Groups, and what has a size, are not for patterns. It is not for ever, as that takes
    memory.
    """
    first = [b""] * 8
    for tag in range(8, 128):
        if tag not in known:
            first[tag & 7] += b"\\x%02x" % tag
    number = b"[%b][\\x80-\\xff]{0,%d}[\\x00-\\x7f]" % (first[_VARINT], _LONG - 1)
    fixed = b"[%b].{8}|[%b].{4}" % (first[_FIXED64], first[_FIXED32])
    return b"(?:%b|%b){1,1000}" % (number, fixed)


def _new(cls: type[M]) -> M:
    """A blank one, sooner than by its constructor."""
    message = cls.__new__(cls)
    message.__dict__ = values = cls._blank.copy()
    for name in cls._lists:
        values[name] = []
    return message


def _write(parts: list[bytes], tag: bytes, holds: int, value: Any) -> None:
    """What is neither TEXT nor BYTES."""
    if holds in _LIMITS:
        parts += (tag, write_number(holds, value))
        return
    for each in (value,) if holds == MESSAGE else value:
        body = each.encode() if holds == TEXTS else each.SerializeToString()
        parts += (tag, size_of(body), body)


def write_number(holds: int, value: int) -> bytes:
    low, high = _LIMITS[holds]
    if not low <= value <= high:
        raise ValueError(f"out of range: {value}")
    return _varint(value & _BITS)


def size_of(value: bytes) -> bytes:
    """What is written before it."""
    size = len(value)
    return _BYTE[size] if size < 128 else _varint(size)


def _varint(number: int) -> bytes:
    if number < 128:
        return _BYTE[number]
    if number < 1 << 14:
        return bytes((number & 127 | 128, number >> 7))
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


def _merge(message: Message, data: bytes, depth: int, position: int = 0) -> None:
    """Read fields into a message, from there until the bytes end.

    Raises:
        DecodeError, IndexError, UnicodeDecodeError: They are not such a message.
    """
    values, known, short = message.__dict__, message._known, message._short
    end = len(data)
    while position < end:
        tag = data[position]
        position += 1
        field = short[tag]
        if field is None:
            if tag > 127:
                tag, position = _read(data, position - 1, _SHORT)
                field = known.get(tag)
            elif not tag & 2:
                # It has neither a size nor a group.
                run = message._unknown.match(data, position - 1)
                if run is not None:
                    position = run.end()
                    continue
            if field is None:
                position = _skip(data, position, tag, depth)
                continue
        name, holds, kind = field
        # The number, or else the size of what follows.
        number = data[position]
        position += 1
        if number > 127:
            # Two bytes are the most that a number usually has.
            second = data[position]
            if second < 128:
                number += (second - 1) << 7
                position += 1
            else:
                most = _LONG if holds in _NUMBERS else _SHORT
                number, position = _read(data, position - 1, most)
        # Where that is behind the end, it is found out once the loop is over.
        stop = position + number
        if holds == TEXT:
            values[name] = data[position:stop].decode()
        elif holds == BYTES:
            values[name] = data[position:stop]
        elif holds == TEXTS:
            values[name].append(data[position:stop].decode())
        elif kind is not None:
            inner = values[name] if holds == MESSAGE else None
            if inner is None:
                inner = _new(kind)
            _merge(inner, data[position:stop], depth - 1)
            if holds == MESSAGE:
                values[name] = inner
            else:
                values[name].append(inner)
        else:
            if number > 127 or holds == BOOL:
                number = _NUMBERS[holds](number)
            values[name] = number
            stop = position
        position = stop
    if position > end:
        raise DecodeError("its end is missing")


def _read(data: bytes, position: int, most: int) -> tuple[int, int]:
    """A varint of at most so many bytes, and where it ends."""
    number = 0
    for shift in range(0, 7 * most, 7):
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number & _BITS, position
    raise DecodeError("a varint is too long")


def _skip(data: bytes, position: int, tag: int, depth: int) -> int:
    """Where an unknown field ends, whose tag has been read."""
    # Within a group protobuf lets a zero pass.
    if tag < 8:
        raise DecodeError("a field without a number")
    groups: list[int] = []
    while True:
        number, wire_type = tag >> 3, tag & 7
        if number >= 1 << 29:
            raise DecodeError("no field has such a number")
        if wire_type == _VARINT:
            position += 1
            if data[position - 1] > 127:
                _, position = _read(data, position - 1, _LONG)
        elif wire_type == _SIZED:
            size = data[position]
            position += 1
            if size > 127:
                size, position = _read(data, position - 1, _SHORT)
            position += size
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        elif wire_type == _GROUP and len(groups) < depth:
            groups.append(number)
        elif wire_type != _END_GROUP or not groups or groups.pop() != number:
            raise DecodeError("a group or wire type out of place")
        if not groups:
            return position
        tag = data[position]
        position += 1
        if tag > 127:
            tag, position = _read(data, position - 1, _SHORT)
