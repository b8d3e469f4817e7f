from __future__ import annotations

import pytest

from inngest_connect_asgi.protocol.urls import MAX_LENGTH, gateway_scheme


@pytest.mark.parametrize(
    ("url", "scheme"),
    [
        ("ws://127.0.0.1:8289/v0/connect", "ws"),
        ("wss://gateway.test/a?b=c", "wss"),
        ("WSS://gateway.test", "wss"),
        ("ws://[::1]:80", "ws"),
        ("ws://" + "x" * (MAX_LENGTH - 5), "ws"),
    ],
)
def test_a_gateway(url: str, scheme: str) -> None:
    assert gateway_scheme(url) == scheme


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ws://" + "x" * (MAX_LENGTH - 4), "longer than"),
        ("ws://gäteway.test", "printable ASCII"),
        ("ws://gateway.test/\n", "printable ASCII"),
        ("ws://gateway.test/a b", "printable ASCII"),
        ("ws://[::1", "not a URL"),
        ("ws://secret.test:port", "not a URL"),
        ("https://gateway.test", "not a ws://"),
        ("gateway.test", "not a ws://"),
        ("ws:///path", "without a host"),
        ("ws://gateway.test:0", "without a host"),
        ("ws://me:secret@gateway.test", "password"),
        ("ws://gateway.test/#top", "fragment"),
    ],
)
def test_no_gateway_and_its_url_is_not_repeated(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as raised:
        gateway_scheme(url)
    assert "secret" not in str(raised.value)
