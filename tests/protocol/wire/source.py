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
)
'''
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
    for each in sorted(message.fields, key=lambda field: field.number):
        yield f"    {each.name}: {_field(each)}"
    yield ""


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
