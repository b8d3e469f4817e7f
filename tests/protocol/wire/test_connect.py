"""The messages are those of ``connect.proto``."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from inngest_connect_asgi.protocol.wire import codec, connect

from . import connect_pb2
from .judge import CLASSES, agree, same_as
from .source import FILE, TYPES, source


def test_the_source_is_up_to_date() -> None:
    """With what protobuf has; ``scripts/generate-wire`` writes both."""
    assert FILE.read_text() == source()


def test_what_protobuf_has_is_up_to_date() -> None:
    text = (FILE.parent / "connect.proto").read_text()
    messages = [line.split()[1] for line in text.splitlines() if line[:8] == "message "]
    assert messages == list(connect_pb2.DESCRIPTOR.message_types_by_name)
    for message in connect_pb2.DESCRIPTOR.message_types_by_name.values():
        _, _, body = text.partition(f"\nmessage {message.name} {{")
        body, _, _ = body.partition("}")
        numbers = {f.name: str(f.number) for f in message.fields}
        words = [line.strip(" ;").split() for line in body.strip().splitlines()]
        assert numbers == {line[-3]: line[-1] for line in words}


def test_each_message_is_here() -> None:
    found = [
        value
        for value in vars(connect).values()
        if inspect.isclass(value) and issubclass(value, codec.Message)
    ]
    assert found[1:] == CLASSES


def test_each_kind_is_here() -> None:
    for enum in (connect.Kind, connect.SDKResponseStatus):
        expected = getattr(connect_pb2, enum.__name__)
        assert [(each.name, each.value) for each in enum] == expected.items()
        for each in enum:
            assert getattr(connect, each.name) is each


def test_the_package_is_not_the_sdks() -> None:
    assert not connect_pb2.DESCRIPTOR.package.startswith("connect.v1")


STRAIGHT = [each for each in CLASSES if {"_begin", "written"} & vars(each).keys()]
SIZES = [1, 127, 128, 16383, 16384]


@pytest.mark.parametrize("kind", STRAIGHT)
def test_what_goes_with_every_run_is_as_protobuf_has_it(
    kind: type[codec.Message],
) -> None:
    fields = same_as(kind).DESCRIPTOR.fields
    for size in SIZES:
        values = {"str": "x" * size, "bytes": b"x" * size, "int": size, "bool": True}
        given: dict[str, Any] = {
            field.name: values[TYPES[field.type][1]] for field in fields
        }
        for name, value in given.items():
            for some in (
                {},
                {name: value},
                {n: v for n, v in given.items() if n != name},
            ):
                data = kind(**some).SerializeToString()
                assert data == same_as(kind)(**some).SerializeToString()
                assert agree(kind, data)
        data = kind(**given).SerializeToString()
        for end in range(min(len(data), 300)):
            agree(kind, data[:end])


def test_a_number_that_does_not_fit_is_not_written() -> None:
    with pytest.raises(ValueError, match="out of range"):
        connect.ConnectMessage(kind=1 << 31).SerializeToString()
