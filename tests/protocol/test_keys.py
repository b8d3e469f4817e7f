from __future__ import annotations

import pytest

from inngest_connect_asgi.protocol.keys import Keys

from ..simulation import configuration


def keys(key: str | None, fallback: str | None) -> Keys:
    return Keys(configuration(signing_key=key, signing_key_fallback=fallback))


def test_each_is_used_where_the_other_was_rejected() -> None:
    found = keys("key", "fallback")
    assert found.current == "key"
    assert found.switch("key")
    assert found.current == "fallback"
    assert found.switch("fallback")
    assert found.current == "key"


@pytest.mark.parametrize(
    ("key", "fallback", "rejected"),
    [
        ("key", None, "key"),
        ("key", "key", "key"),
        (None, None, None),
        ("key", "fallback", None),
    ],
)
def test_there_is_no_other(
    key: str | None, fallback: str | None, rejected: str | None
) -> None:
    found = keys(key, fallback)
    assert not found.switch(rejected)
    assert found.current == key
