"""The source of ``connect.py``, made of what protobuf makes of ``connect.proto``.

python -m tests.protocol.wire.source --write
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from . import connect_pb2

__all__ = ["FILE", "classes", "source"]

FILE = (
    pathlib.Path(__file__).parents[3]
    / "inngest_connect_asgi"
    / "protocol"
    / "wire"
    / "connect.py"
)
HEAD = '''"""The messages of ``connect.proto``. Written by ``scripts/generate-wire``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .codec import (
    BOOL,
    BYTES,
    INT32,
    INT64,
    MESSAGE,
    MESSAGES,
    TEXT,
    TEXTS,
    UINT32,
    Message,
    field,
    size_of,
    write_number,
)
'''
# What goes over the wire with every run. To read and write these in a loop over their
# fields takes twice as long.
READ_STRAIGHT = ("ConnectMessage", "GatewayExecutorRequestData", "WorkerReplyAckData")
WRITTEN_STRAIGHT = (
    "ConnectMessage",
    "WorkerRequestAckData",
    "WorkerRequestExtendLeaseData",
    "SDKResponse",
)
# The codec's name for a type, and Python's.
TYPES = {
    FieldDescriptor.TYPE_STRING: ("TEXT", "str"),
    FieldDescriptor.TYPE_BYTES: ("BYTES", "bytes"),
    FieldDescriptor.TYPE_BOOL: ("BOOL", "bool"),
    FieldDescriptor.TYPE_INT32: ("INT32", "int"),
    FieldDescriptor.TYPE_INT64: ("INT64", "int"),
    FieldDescriptor.TYPE_UINT32: ("UINT32", "int"),
    FieldDescriptor.TYPE_ENUM: ("INT32", "int"),
}


def classes() -> list[Descriptor]:
    """Each message, after those that it holds."""
    found: list[Descriptor] = []

    def add(message: Descriptor) -> None:
        for each in message.fields:
            if each.message_type is not None and each.message_type not in found:
                add(each.message_type)
        if message not in found:
            found.append(message)

    for message in connect_pb2.DESCRIPTOR.message_types_by_name.values():
        add(message)
    return found


def source() -> str:
    parts = [HEAD]
    for enum in connect_pb2.DESCRIPTOR.enum_types_by_name.values():
        parts.append("\n".join(_enum(enum)))
    for message in classes():
        parts.append("\n".join(_message(message)))
    return "\n\n".join(parts)


def _enum(enum: EnumDescriptor) -> Iterator[str]:
    yield f"class {enum.name}(IntEnum):"
    for value in enum.values:
        yield f"    {value.name} = {value.number}"
    yield "\n"
    for value in enum.values:
        yield f"{value.name} = {enum.name}.{value.name}"
    yield ""


def _message(message: Descriptor) -> Iterator[str]:
    yield "@dataclass(kw_only=True, repr=False)"
    yield f"class {message.name}(Message):"
    fields = sorted(message.fields, key=lambda field: field.number)
    for each in fields:
        yield f"    {each.name}: {_field(each)}"
    if message.name in READ_STRAIGHT:
        yield from ("", "    def _begin(self, data: bytes) -> int:")
        yield "        stop, end = 0, len(data)"
        for each in fields:
            yield from _read(each)
        yield "        return stop"
    if message.name in WRITTEN_STRAIGHT:
        yield from ("", "    @staticmethod")
        yield from ("    def written(", "        *,")
        for each in fields:
            yield f"        {_parameter(each)},"
        yield "    ) -> bytes:"
        yield "        parts: list[bytes] = []"
        for each in fields:
            yield from _write(each)
        yield '        return b"".join(parts)'
        yield from ("", "    def SerializeToString(self) -> bytes:")
        yield "        return self.written(**self.__dict__)"
    yield ""


def _tag(field: FieldDescriptor) -> int:
    is_sized = TYPES[field.type][0] in ("TEXT", "BYTES")
    return int(field.number) << 3 | (2 if is_sized else 0)


def _read(field: FieldDescriptor) -> Iterator[str]:
    """Lines that read a field where it stands in its order, and has an ordinary size;
    the loop goes on behind the last that does."""
    holds = TYPES[field.type][0]
    yield f"        if stop < end and data[stop] == {_tag(field)}:"
    if holds not in ("TEXT", "BYTES"):
        yield "            number = data[stop + 1]"
        yield "            if number > 127:"
        yield "                return stop"
        yield f"            self.{field.name} = number"
        yield "            stop += 2"
        return
    yield "            start = stop + 2"
    yield "            size = data[start - 1]"
    yield "            if size > 127:"
    if holds == "TEXT":
        yield "                return stop"
    else:
        yield "                more = data[start]"
        yield "                if more > 127:"
        yield "                    return stop"
        yield "                start += 1"
        yield "                size += (more - 1) << 7"
    yield "            stop = start + size"
    decode = ".decode()" if holds == "TEXT" else ""
    yield f"            self.{field.name} = data[start:stop]{decode}"


def _parameter(field: FieldDescriptor) -> str:
    annotation = TYPES[field.type][1]
    if field.has_presence:
        return f"{field.name}: {annotation} | None = None"
    blank = {"str": '""', "bytes": 'b""', "bool": "False", "int": "0"}[annotation]
    return f"{field.name}: {annotation} = {blank}"


def _literal(value: bytes) -> str:
    """With the quotation marks that ruff would give it."""
    text = repr(value)
    return text if '"' in text else f'b"{text[2:-1]}"'


def _write(field: FieldDescriptor) -> Iterator[str]:
    holds = TYPES[field.type][0]
    value, tag = field.name, _literal(bytes([_tag(field)]))
    is_there = f"{value} is not None" if field.has_presence else value
    yield f"        if {is_there}:"
    if holds not in ("TEXT", "BYTES"):
        yield f"            parts += ({tag}, write_number({holds}, {value}))"
        return
    if holds == "TEXT":
        yield f"            text = {value}.encode()"
        value = "text"
    yield f"            parts += ({tag}, size_of({value}), {value})"


def _field(field: FieldDescriptor) -> str:
    """Its type and its value.

    Raises:
        KeyError: The codec has no such type.
    """
    arguments = [str(field.number)]
    if field.message_type is not None:
        name = field.message_type.name
        holds, annotation = "MESSAGE", f"{name} | None"
        if field.is_repeated:
            holds, annotation = "MESSAGES", f"list[{name}]"
        arguments += [holds, name]
    elif field.is_repeated:
        annotation = {FieldDescriptor.TYPE_STRING: "list[str]"}[field.type]
        arguments += ["TEXTS"]
    else:
        holds, annotation = TYPES[field.type]
        arguments += [holds]
        if field.has_presence:
            annotation += " | None"
            arguments += ["optional=True"]
    return f"{annotation} = field({', '.join(arguments)})"


if __name__ == "__main__":
    if "--write" in sys.argv:
        FILE.write_text(source())
    else:
        print(source(), end="")
