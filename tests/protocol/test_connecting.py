"""The core in virtual time: which gateway, and whether that succeeds."""

from __future__ import annotations

import random

import pytest

from inngest_connect_asgi.messages import Log, Start
from inngest_connect_asgi.protocol.core import Core
from inngest_connect_asgi.protocol.link import ATTEMPT_TIMEOUT
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import CLOSING, RUNTIME_CRASHED, State

from ..simulation import Simulation, configuration, frame


def test_the_handshake() -> None:
    sim = Simulation(environment="env", max_worker_concurrency=7)
    link = sim.start_answer()
    assert sim.opening[link].url == "ws://gateway.test"
    sim.open()
    sim.write(link)
    assert not sim.wire  # the gateway speaks first
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.write(link)
    (hello,) = sim.sent(wire.WORKER_CONNECT)
    data = wire.WorkerConnectRequestData.FromString(hello)
    assert data.connection_id == "connection-1"
    assert data.worker_manual_readiness_ack
    assert (data.environment, data.max_worker_concurrency) == ("env", 7)
    assert not sim.sent(wire.WORKER_READY)
    sim.ready(link)
    sim.write(link)
    assert sim.sent(wire.WORKER_READY)
    assert sim.sent(wire.WORKER_HEARTBEAT)
    assert sim.state.connection == "ready"


@pytest.mark.parametrize(
    "kind",
    [wire.GATEWAY_HELLO, wire.GATEWAY_EXECUTOR_REQUEST, wire.GATEWAY_HEARTBEAT, 99],
)
def test_a_message_out_of_order_ends_the_attempt(kind: int) -> None:
    sim = Simulation()
    sim.start_answer()
    link = sim.open()
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.receive(link, kind)
    assert link not in sim.queued
    sim.advance(1)
    assert sim.starts
    assert "out of order" in str(sim.state.last_error)


@pytest.mark.parametrize(
    "data", [b"\xff\xff", "text", frame(wire.GATEWAY_CLOSING, b"{}")[:-1]]
)
def test_garbage_in_the_handshake_ends_the_attempt(data: bytes | str) -> None:
    sim = Simulation()
    sim.start_answer()
    link = sim.open()
    sim.do(sim.core.received(link, data, sim.now))
    assert link not in sim.queued
    sim.advance(1)
    assert sim.starts


def test_every_phase_of_the_handshake_has_its_time() -> None:
    sim = Simulation()
    sim.advance(11)
    assert "starting" in str(sim.state.last_error)
    sim.start_answer()
    sim.advance(11)
    assert "opening" in str(sim.state.last_error)
    sim.start_answer()
    link = sim.open()
    sim.advance(6)
    assert "greeting" in str(sim.state.last_error)
    sim.advance(3)
    sim.start_answer()
    link = sim.open()
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.advance(21)
    assert "syncing" in str(sim.state.last_error)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_backs_off_while_the_api_fails_but_never_for_longer_than_its_cap(
    status: int,
) -> None:
    sim = Simulation()
    delays = []
    for _ in range(12):
        before = sim.now
        sim.start_answer(status)
        while not sim.starts:
            sim.advance(0.1)
        delays.append(sim.now - before)
    assert delays[0] < 0.7
    assert 13 < delays[-1] < 27.2
    assert sum("trying again" in text for text in sim.logs) == 1


def test_an_answer_without_a_gateway_is_one_more_failure() -> None:
    sim = Simulation()
    sim.start_answer(body=b"\xff\xff")
    sim.advance(1)
    sim.start_answer(body=wire.StartResponse(connection_id="c").SerializeToString())
    assert "no gateway" in str(sim.state.last_error)
    sim.advance(2)
    assert sim.starts


@pytest.mark.parametrize(
    ("origin", "url", "option", "opens"),
    [
        ("https://api.test", "wss://gateway.test", None, True),
        ("https://api.test", "ws://gateway.test", None, False),
        ("https://api.test", "wss://gateway.test", "ws://chosen.test", True),
        ("http://127.0.0.1:8288", "ws://127.0.0.1:8289", None, True),
        ("https://api.test", "https://gateway.test", None, False),
        ("https://api.test", "wss://", None, False),
        ("https://api.test", "wss://[", None, False),
        ("https://api.test", "file:///etc/passwd", None, False),
        ("https://api.test", "wss://user:secret@gateway.test", None, False),
        ("https://api.test", "wss://gateway.test\\@other.test", None, False),
        ("https://api.test", "wss://gateway.test:0", None, False),
        ("https://api.test", "wss://gateway.test:99999", None, False),
        ("https://api.test", "wss://gateway.test:secret", None, False),
        ("https://api.test", "wss://gateway .test", None, False),
        ("https://api.test", "wss://gateway.test/\r\nX-Header: 1", None, False),
        ("https://api.test", "wss://gatew\u0430y.test", None, False),
        ("https://api.test", "wss://gateway.test/#secret", None, False),
        ("https://api.test", "wss://gateway.test/" + "x" * 4096, None, False),
        ("https://api.test", "javascript:alert(1)", None, False),
        ("https://api.test", "WSS://GATEWAY.TEST", None, True),
        ("https://api.test", "wss://[::1]:8289/v0/connect?a=b", None, True),
        ("HTTPS://api.test", "ws://gateway.test", None, False),
    ],
)
def test_the_gateway_is_checked_and_is_no_less_secure_than_the_api(
    origin: str, url: str, option: str | None, opens: bool
) -> None:
    sim = Simulation(api_origin=origin, gateway_url=option)
    answer = wire.StartResponse(connection_id="c", gateway_endpoint=url)
    sim.start_answer(body=answer.SerializeToString())
    assert bool(sim.opening) == opens
    if opens:
        assert sim.opening[1].url == (option or url)
    else:
        assert "gateway" in str(sim.state.last_error)
        assert "secret" not in str(sim.state.last_error)


def test_both_keys_are_tried_and_then_the_first_again_slowly() -> None:
    sim = Simulation(signing_key="one", signing_key_fallback="two")
    assert sim.starts[1].signing_key == "one"
    sim.start_answer(401)
    assert sim.starts[1].signing_key == "two"
    sim.start_answer(401)
    assert not sim.starts
    assert "INNGEST_SIGNING_KEY" in str(sim.state.last_error)
    sim.advance(13)
    assert not sim.starts
    sim.advance(15)
    (start,) = sim.starts.values()
    assert start.signing_key == "two"
    sim.start_answer(401)
    (start,) = sim.starts.values()
    assert start.signing_key == "one"


def test_a_failed_sync_is_for_a_person_to_mend() -> None:
    sim = Simulation()
    sim.start_answer()
    link = sim.open()
    sim.receive(link, wire.GATEWAY_HELLO)
    error = wire.SystemError(code="bad_config", message="no such trigger")
    sim.receive(link, wire.SYNC_FAILED, error.SerializeToString())
    assert "bad_config: no such trigger" in str(sim.state.last_error)
    sim.advance(13)
    assert not sim.starts


def test_a_group_that_failed_is_avoided_until_no_other_is_left() -> None:
    sim = Simulation()
    sim.start_answer(group="one")
    sim.lose(1)
    sim.advance(1)
    body = next(iter(sim.starts.values())).body
    assert wire.StartRequest.FromString(body).exclude_gateways == ["one"]
    sim.start_answer(503)
    sim.advance(2)
    body = next(iter(sim.starts.values())).body
    assert not wire.StartRequest.FromString(body).exclude_gateways


@pytest.mark.parametrize("text", ["soon", "-1s", "0s", ""])
def test_intervals_that_make_no_sense_are_replaced(text: str) -> None:
    sim = Simulation()
    sim.connect(heartbeat=text, extend=text, status=text)
    assert sim.state.heartbeat_interval == 10.0
    sim.advance(9)


def test_an_attempt_that_hangs_in_every_phase_keeps_to_its_time() -> None:
    sim = Simulation()
    began = sim.now
    sim.advance(9.5)
    sim.start_answer()
    sim.advance(9.5)
    link = sim.open()
    sim.advance(4.5)
    sim.receive(link, wire.GATEWAY_HELLO)
    sim.write(link)
    while not sim.starts:
        sim.advance(0.1)
    assert sim.now - began <= ATTEMPT_TIMEOUT + 0.2


def test_a_gateway_that_closes_in_the_handshake_is_left_for_another() -> None:
    sim = Simulation()
    sim.start_answer()
    link = sim.open()
    sim.receive(link, wire.GATEWAY_CLOSING)
    assert link not in sim.queued
    sim.advance(10)
    assert sim.starts
    assert sim.state.failures_by == {CLOSING: 1}


def test_there_is_one_attempt_at_a_time() -> None:
    sim = Simulation()
    assert list(sim.starts) == [1]
    sim.core.connecting.connect(sim.now)
    sim.do(sim.core.tick(sim.now))
    assert list(sim.starts) == [1]


def test_what_another_runtime_counted_goes_on() -> None:
    told = State(
        "ready", reconnects=3, reconnects_by={CLOSING: 3}, failures_by={CLOSING: 2}
    )
    sim = Simulation(state=told)
    sim.connect()
    assert sim.state.reconnects == 4
    assert sim.state.reconnects_by == {CLOSING: 3, RUNTIME_CRASHED: 1}
    assert sim.state.failures_by == {CLOSING: 2}
    first = Simulation(state=State("connecting"))
    first.connect()
    assert first.state.reconnects == 0


def test_a_status_interval_is_kept_to() -> None:
    sim = Simulation()
    sim.connect(status="7s")
    assert sim.core.links.live is not None
    assert sim.core.links.live.next_status == sim.now + 7


def test_an_interval_that_makes_no_sense_is_logged_once_a_connection() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="soon", extend="soon", status="soon")
    assert sum("interval" in text for text in sim.logs) == 1
    sim.advance(2)
    sim.lose(link)
    sim.advance(1)
    sim.connect(heartbeat="soon", extend="soon", status="soon")
    assert sum("interval" in text for text in sim.logs) == 2


@pytest.mark.parametrize(
    ("status", "key", "error"),
    [
        (429, "key", "Inngest says: too many connections (429)"),
        (503, "key", "the start API answered 503 by way of http://api.test"),
        (
            401,
            "key",
            "Inngest rejected the signing key (401): check INNGEST_SIGNING_KEY",
        ),
        (
            401,
            None,
            "Inngest demands a signing key (401): set INNGEST_SIGNING_KEY",
        ),
    ],
)
def test_what_the_api_answers_is_explained(
    status: int, key: str | None, error: str
) -> None:
    core = Core(
        configuration(signing_key=key),
        rng=random.Random(1),
        via=lambda url: f" by way of {url}",
    )
    core.start(Start(core.parts.configuration), 0.0)
    core.start_answered(1, status, b"", 0.0)
    assert core.losing.last_error == error


def test_a_gateway_that_does_not_answer_is_named_with_its_own_proxy() -> None:
    core = Core(
        configuration(),
        rng=random.Random(1),
        via=lambda url: f" by way of {url}",
    )
    core.start(Start(core.parts.configuration), 0.0)
    answer = wire.StartResponse(connection_id="c", gateway_endpoint="ws://gateway.test")
    core.start_answered(1, 200, answer.SerializeToString(), 0.0)
    core.tick(10.0)
    error = "timed out while opening by way of ws://gateway.test"
    assert core.losing.last_error == error


def test_a_start_is_told_soon_and_a_connection_at_once() -> None:
    sim = Simulation()
    sim.core.telling.state_at = None
    sim.start_answer(503)
    sim.core.telling.state_at = None
    while not sim.starts:
        sim.advance(0.01)
    assert sim.core.telling.state_at is not None
    told = len(sim.told)
    sim.connect()
    assert sim.state in sim.told[told:]
    assert sim.state.connection == "ready"
    assert sim.state.connection_id == "connection-2"
    assert sim.state.gateway_group == "group"
    (log,) = (
        message
        for message in sim.told
        if isinstance(message, Log) and message.message == "Connected to Inngest"
    )
    assert log.extra == {"connection_id": "connection-2", "gateway_group": "group"}


def test_a_gateway_of_no_group_has_none() -> None:
    sim = Simulation()
    sim.start_answer(group="")
    assert sim.core.links.attempt is not None
    assert sim.core.links.attempt.gateway_group is None


def test_an_answer_that_names_no_connection_is_one_more_failure() -> None:
    sim = Simulation()
    answer = wire.StartResponse(gateway_endpoint="ws://gateway.test")
    sim.start_answer(body=answer.SerializeToString())
    assert not sim.opening
    assert sim.core.losing.last_error == "the start API named no gateway"
    assert sim.core.connecting.malformed == 1


def test_every_connection_after_the_first_is_one_more_and_avoids_nobody() -> None:
    sim = Simulation()
    for number in range(3):
        link = sim.connect()
        assert sim.state.reconnects == number
        assert not sim.core.losing.excluded
        sim.advance(2)
        sim.lose(link)
        assert sim.core.losing.excluded == {"group"}
        sim.advance(0)


def test_a_key_that_works_is_not_given_up_for_a_rejection_of_old() -> None:
    sim = Simulation(signing_key="one", signing_key_fallback="two")
    sim.start_answer(401)
    link = sim.connect()
    assert sim.core.connecting._keys.current == "two"
    sim.advance(2)
    sim.lose(link)
    sim.advance(0)
    sim.start_answer(401)
    # The first one may be right by now.
    assert next(iter(sim.starts.values())).signing_key == "one"


@pytest.mark.parametrize("phase", ["opening", "greeting"])
def test_the_token_of_an_attempt_is_forgotten_with_it(phase: str) -> None:
    sim = Simulation()
    link = sim.start_answer()
    if phase == "greeting":
        sim.open()
    assert link in sim.core.connecting._starts
    sim.lose(link)
    assert not sim.core.connecting._starts


def test_an_interval_is_left_out_without_a_word() -> None:
    sim = Simulation()
    sim.connect(heartbeat="", extend="", status="")
    assert sim.state.heartbeat_interval == 10.0
    assert not any("interval" in text for text in sim.logs)
    assert sim.core.connecting.malformed == 0


@pytest.mark.parametrize("phase", ["greeting", "syncing"])
@pytest.mark.parametrize("kind", list(wire.Kind))
def test_each_phase_of_the_handshake_has_its_messages(phase: str, kind: int) -> None:
    sim = Simulation()
    sim.start_answer()
    link = sim.open()
    if phase == "syncing":
        sim.receive(link, wire.GATEWAY_HELLO)
    sim.receive(link, kind)
    goes_on = {
        "greeting": {wire.GATEWAY_HELLO},
        "syncing": {wire.GATEWAY_CONNECTION_READY},
    }
    answers = {
        "greeting": {wire.GATEWAY_CLOSING},
        "syncing": {wire.GATEWAY_CLOSING, wire.SYNC_FAILED},
    }
    assert (sim.core.links.get(link) is not None) == (kind in goes_on[phase])
    if kind not in goes_on[phase] | answers[phase]:
        name = wire.Kind(kind).name
        assert sim.core.losing.last_error == f"the gateway sent {name} out of order"


def test_intervals_that_make_no_sense_are_counted() -> None:
    sim = Simulation()
    sim.connect(heartbeat="soon", extend="-1s", status="1 s")
    assert sim.core.connecting.malformed == 3
