"""Check step by step what a person would check by hand."""

from __future__ import annotations

import os
import re

import httpx
import inngest
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from . import config, frames, sdk
from .errors import ConfigurationError, describe
from .gateway_socket import SUBPROTOCOL
from .urls import gateway_scheme
from .wire import connect_pb2 as wire

__all__ = ["check"]

TIMEOUT = 10.0
"""Seconds for the API, and again for the gateway."""


class Failed(Exception):
    """A step failed, and the later ones make no sense. Says what to do."""


def check() -> int:
    """Print one line for each step, until one fails.

    Returns:
        The exit code: 0 if the worker would connect, 1 if not.
    """
    try:
        client = _environment()
        _options()
        key = _signing_key(client)
        start = _api(client, key)
        _gateway(start, key)
    except (Failed, ConfigurationError) as failure:
        print(f"FAIL  {failure}")
        return 1
    print("All is well: a worker with this environment would connect.")
    return 0


def _say(step: str, text: str) -> None:
    print(f"ok    {step}: {text}")


def _environment() -> inngest.Inngest:
    sdk.check_version()
    try:
        client = inngest.Inngest(app_id="doctor", logger=None)
    except Exception as error:
        raise Failed(f"environment: the SDK refuses it: {describe(error)}") from None
    mode = "Inngest Cloud" if client.is_production else "dev server"
    cause = "as no INNGEST_DEV is set"
    if "INNGEST_DEV" in os.environ:
        cause = f"by INNGEST_DEV={os.environ['INNGEST_DEV']}"
    _say("mode", f"{mode}, {cause}")
    environment = f", environment {client.env!r}" if client.env else ""
    _say("origin", f"{client.api_origin}{environment}")
    return client


def _options() -> None:
    config.check_environment()
    if not config.is_enabled(None):
        raise Failed(
            f"options: {config.ENABLED} switches the worker off; unset it, or set it "
            "to 1"
        )
    _say("options", "make sense, and do not switch the worker off")


def _signing_key(client: inngest.Inngest) -> sdk.Client:
    read = sdk.Client.of(client)
    if not client.is_production:
        _say("signing key", "not needed with a dev server")
    else:
        fallback = (
            "and a fallback" if read.hashed_signing_key_fallback else "no fallback"
        )
        _say("signing key", f"{_mask(client.signing_key)}, {fallback}")
    return read


def _mask(key: str | None) -> str:
    """The part of a key that says which environment it is for."""
    match = re.match(r"signkey-\w+-", key or "", re.ASCII)
    return (match[0] if match else "") + "****"


def _api(client: inngest.Inngest, read: sdk.Client) -> wire.StartResponse:
    keys = {"INNGEST_SIGNING_KEY": read.hashed_signing_key}
    if read.hashed_signing_key_fallback:
        keys["INNGEST_SIGNING_KEY_FALLBACK"] = read.hashed_signing_key_fallback
    for name, key in keys.items():
        status, body = _start(read, key)
        if status != 401:
            break
        print(f"      API: answers, but rejects {name}")
    if status == 401:
        raise Failed(
            "API: no key is accepted (401): take the signing key of this environment "
            "from Inngest's dashboard"
            if read.hashed_signing_key
            else "API: demands a key (401): this is no dev server; unset INNGEST_DEV"
        )
    if status == 429:
        raise Failed("API: too many connections (429): stop workers, or raise the plan")
    if status == 404:
        raise Failed(
            f"API: {read.api_origin} knows nothing of Connect (404): is it Inngest's?"
        )
    if status != 200:
        raise Failed(f"API: answers with status {status}: try again later")
    try:
        start = frames.parse(wire.StartResponse, body)
    except frames.Malformed:
        raise Failed(
            f"API: {read.api_origin} answers something that is not Inngest's: is "
            "there a proxy between?"
        ) from None
    _say("API", "answers and hands out a gateway")
    return start


def _start(read: sdk.Client, key: str | None) -> tuple[int, bytes]:
    headers = {"content-type": "application/protobuf"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    if read.environment is not None:
        headers["x-inngest-env"] = read.environment
    url = read.api_origin.rstrip("/") + "/v0/connect/start"
    try:
        answer = httpx.post(url, headers=headers, timeout=TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        hint = (
            "is the network, a proxy or a firewall in the way?"
            if read.is_production
            else "is the dev server running? npx inngest-cli@latest dev"
        )
        raise Failed(
            f"API: {url} can't be reached ({describe(error)}): {hint}"
        ) from None
    return answer.status_code, answer.content


def _gateway(start: wire.StartResponse, read: sdk.Client) -> None:
    told = config.check_gateway_url(None)
    url = told or start.gateway_endpoint
    if told is None and read.api_origin.startswith("https:") and url.startswith("ws:"):
        raise Failed(
            f"gateway: {url} is without TLS, which the API has; set "
            f"{config.GATEWAY_URL}={url} if that is what you want"
        )
    group = f", group {start.gateway_group}" if start.gateway_group else ""
    try:
        gateway_scheme(url)
    except ValueError as error:
        raise Failed(
            f"gateway: the API names one that is {error}: is there a proxy between?"
        ) from None
    try:
        with connect(
            url,
            subprotocols=[SUBPROTOCOL],
            open_timeout=TIMEOUT,
            close_timeout=1,
            compression=None,
        ) as socket:
            hello = frames.decode(socket.recv(timeout=TIMEOUT))
    except (OSError, ValueError, EOFError, WebSocketException) as error:
        raise Failed(
            f"gateway: {url} does not complete the WebSocket upgrade "
            f"({describe(error)}): is a proxy or a firewall in the way?"
        ) from None
    if hello.kind != wire.GATEWAY_HELLO:
        raise Failed(f"gateway: {url} does not speak Connect")
    _say("gateway", f"{url} completes the WebSocket upgrade{group}")
