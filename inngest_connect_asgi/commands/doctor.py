"""Check step by step what a person would check by hand."""

from __future__ import annotations

import asyncio
import os
import re

import httpx
import inngest

from .. import event_loop
from ..errors import ConfigurationError, describe, one_line, scrubbed
from ..health.report import DESCRIPTION
from ..network import access as network
from ..network import trust
from ..network.access import Network
from ..protocol import frames
from ..protocol.urls import gateway_scheme
from ..protocol.wire import connect as wire
from ..runtime.gateway_socket import (
    LOGGER,
    MAX_MESSAGE_SIZE,
    SUBPROTOCOL,
    StraightConnect,
)
from ..worker import config, sdk
from ..worker.client import Client
from . import healthcheck
from .traps import traps

__all__ = ["check"]

TIMEOUT = 10.0
"""Seconds for the API, and again for the gateway."""


class Failed(Exception):
    """A step failed, and the later ones make no sense. Says what to do."""


def check(url: str | None = None) -> int:
    """Print one line for each step, until one fails.

    Args:
        url: The app's health endpoint. By default it is asked where ``healthcheck``
            asks, and left out where nothing of ours answers.

    Returns:
        The exit code: 0 if the worker would connect, 1 if not.
    """
    try:
        client = _environment()
        _options()
        key = _signing_key(client)
        ways = _network(key)
        for trap in traps():
            print(f"warn  {trap}")
        _app(url)
        start = event_loop.run(lambda _: _api(client, key, ways))
        event_loop.run(lambda _: _gateway(start, key, ways))
    except (Failed, ConfigurationError) as failure:
        print(f"FAIL  {scrubbed(str(failure))}")
        return 1
    except Exception as error:
        print(
            f"FAIL  doctor: this was not foreseen, please report it: {describe(error)}"
        )
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
        # Its HTTP client reads the same variables, and may say less of them.
        network.check_variables()
        raise Failed(f"environment: the SDK refuses it: {describe(error)}") from None
    mode = "Inngest Cloud" if client.is_production else "dev server"
    cause = "as no INNGEST_DEV is set"
    if "INNGEST_DEV" in os.environ:
        cause = f"by INNGEST_DEV={one_line(os.environ['INNGEST_DEV'])}"
    _say("mode", f"{mode}, {cause}")
    environment = f", environment {client.env!r}" if client.env else ""
    _say("origin", f"{one_line(client.api_origin)}{environment}")
    return client


def _options() -> None:
    config.check_environment()
    if not config.is_enabled(None):
        raise Failed(
            f"options: {config.ENABLED} switches the worker off; unset it, or set it "
            "to 1"
        )
    _say("options", "make sense, and do not switch the worker off")


def _signing_key(client: inngest.Inngest) -> Client:
    read = Client.of(client)
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


def _network(read: Client) -> Network:
    network.check(read.api_origin, config.check_gateway_url(None))
    ways = Network()
    _say("proxy", ways.way(read.api_origin))
    try:
        trust.check()
    except ConfigurationError as error:
        # Nothing that is known of yet is reached over TLS.
        print(f"warn  trust: {error}")
    else:
        _say("trust", trust.description())
    return ways


def _app(url: str | None) -> None:
    """What the app says of itself: one whose log is disabled says it nowhere else."""
    asked = url or healthcheck.DEFAULT_URL
    report, text = healthcheck.report(asked)
    ours = report.get("description") == DESCRIPTION
    if not ours and url is None:
        return
    if "status" not in report:
        print(f"warn  app: {one_line(asked)} has no report of a worker: {text}")
        return
    mark = "ok   " if report["status"] == "pass" else "warn "
    print(f"{mark} app: {one_line(asked)}: {text}")
    if ours and (check := report["checks"].get("logging")):
        print(f"warn  app: it can't log: {one_line(check[0]['output'])}")


async def _api(
    client: inngest.Inngest, read: Client, ways: Network
) -> wire.StartResponse:
    keys = {"INNGEST_SIGNING_KEY": read.hashed_signing_key}
    if read.hashed_signing_key_fallback:
        keys["INNGEST_SIGNING_KEY_FALLBACK"] = read.hashed_signing_key_fallback
    for name, key in keys.items():
        status, body = await _start(read, key, ways)
        if status != 401:
            break
        print(f"      API: answers, but rejects {name}")
    via = ways.via(read.api_origin)
    origin = one_line(read.api_origin)
    if status == 401:
        raise Failed(
            "API: no key is accepted (401): take the signing key of this environment "
            "from Inngest's dashboard"
            if read.hashed_signing_key
            else "API: demands a key (401): this is no dev server; unset INNGEST_DEV"
        )
    if status == 407:
        raise Failed(
            f"API: the answer{via} is that it wants a user name and a password (407): "
            "put them into the proxy's URL"
        )
    if status == 429:
        raise Failed("API: too many connections (429): stop workers, or raise the plan")
    if status == 404:
        raise Failed(
            f"API: {origin} knows nothing of Connect (404){via}: is it Inngest's?"
        )
    if status != 200:
        raise Failed(f"API: answers with status {status}{via}: try again later")
    try:
        start = frames.parse(wire.StartResponse, body)
    except frames.Malformed:
        raise Failed(
            f"API: {origin} answers something that is not Inngest's{via}: is "
            "there a proxy between?"
        ) from None
    _say("API", f"answers and hands out a gateway{via}")
    return start


async def _start(read: Client, key: str | None, ways: Network) -> tuple[int, bytes]:
    origin, authorization = network.split_credentials(read.api_origin.rstrip("/"))
    headers = {"content-type": "application/protobuf"}
    if key is not None:
        authorization = f"Bearer {key}"
    if authorization is not None:
        headers["authorization"] = authorization
    if read.environment is not None:
        headers["x-inngest-env"] = read.environment
    url = origin + "/v0/connect/start"
    try:
        async with ways.http_client(origin, TIMEOUT) as client:
            # An answer in drops would never exceed httpx's own timeout.
            answer = await asyncio.wait_for(client.post(url, headers=headers), TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, asyncio.TimeoutError) as error:
        via = ways.via(origin)
        hint = (
            "is the network, a proxy or a firewall in the way?"
            if read.is_production
            else "is the dev server running? npx inngest-cli@latest dev"
        )
        if via:
            hint = "does the proxy let it through? NO_PROXY names what needs none"
        why = ways.explain(error)
        raise Failed(
            f"API: {one_line(url)} can't be reached{via} ({why}): {hint}"
        ) from None
    return answer.status_code, answer.content


async def _gateway(start: wire.StartResponse, read: Client, ways: Network) -> None:
    told = config.check_gateway_url(None)
    url = told or start.gateway_endpoint
    shown = one_line(url)
    group = f", group {one_line(start.gateway_group)}" if start.gateway_group else ""
    try:
        scheme = gateway_scheme(url)
    except ValueError as error:
        raise Failed(
            f"gateway: the API names one that is {error}: is there a proxy between?"
        ) from None
    if told is None and read.api_origin.startswith("https:") and scheme == "ws":
        raise Failed(
            f"gateway: {shown} is without TLS, which the API has; set "
            f"{config.GATEWAY_URL}={shown} if that is what you want"
        )
    via = ways.via(url)
    try:
        async with StraightConnect(
            url,
            subprotocols=[SUBPROTOCOL],
            open_timeout=TIMEOUT,
            close_timeout=1,
            compression=None,
            max_size=MAX_MESSAGE_SIZE,
            logger=LOGGER,
            **ways.websocket(url),
        ) as socket:
            data = await asyncio.wait_for(socket.recv(), TIMEOUT)
    except ConfigurationError:
        raise
    except Exception as error:
        raise Failed(
            f"gateway: {shown} does not complete the WebSocket upgrade{via} "
            f"({ways.explain(error)}): is a proxy or a firewall in the way?"
        ) from None
    try:
        hello = frames.decode(data).kind == wire.GATEWAY_HELLO
    except frames.Malformed:
        hello = False
    if not hello:
        raise Failed(f"gateway: {shown} does not speak Connect{via}")
    _say("gateway", f"{shown} completes the WebSocket upgrade{via}{group}")
