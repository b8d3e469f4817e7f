"""The core, event by event, in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from inngest_connect_asgi.messages import (
    CLOSING,
    FAILURE_REASONS,
    RECONNECT_REASONS,
    Delivery,
    Extended,
    Outcome,
    Result,
    Stalled,
    Starved,
    Withdrawn,
)
from inngest_connect_asgi.protocol.actions import Send
from inngest_connect_asgi.protocol.wire import connect_pb2 as wire

from .simulation import DONE, Simulation, frame, lease

# Connecting


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
def test_a_message_out_of_order_ends_the_attempt(kind: wire.Kind.ValueType) -> None:
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


# Heartbeats


def test_two_unanswered_heartbeats_are_a_dead_link() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(19.9)
    assert link in sim.queued
    sim.advance(0.2)
    assert link not in sim.queued
    assert sim.state.last_error == "the gateway answered no heartbeat"
    assert sim.starts  # at once


def test_answered_heartbeats_keep_a_link_alive() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(20):
        sim.receive(link, wire.GATEWAY_HEARTBEAT)
        sim.advance(10)
        sim.write(link)
    assert len(sim.sent(wire.WORKER_HEARTBEAT)) == 21
    assert (sim.state.heartbeats_missed, sim.state.reconnects) == (0, 0)


def test_a_starved_runtime_sends_no_burst_of_heartbeats() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.now = 60.0
    sim.do(sim.core.tick(sim.now))
    assert len(sim.queued[link]) == 1
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.advance(10)
    assert sim.state.connection == "ready"


def test_starvation_is_told_once_in_a_while() -> None:
    sim = Simulation()
    for _ in range(3):
        sim.do(sim.core.late(5.0, sim.now))
    assert [m for m in sim.told if isinstance(m, Starved)] == [Starved(5.0)]
    assert sim.state.runtime_lag == 0.0
    sim.advance(1)
    assert sim.state.runtime_lag == 5.0


# Requests and leases


def test_a_request_runs_once_its_ack_is_on_the_wire() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    assert not sim.requested
    sim.write(link)
    assert sim.requested == {"r": 1}
    (ack,) = sim.sent(wire.WORKER_REQUEST_ACK)
    assert wire.WorkerRequestAckData.FromString(ack).request_id == "r"


def test_a_request_whose_ack_was_never_written_is_not_run() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    assert sim.offered == {Delivery("r", "lease-0")}
    sim.lose(link)
    sim.advance(30)
    assert not sim.requested
    assert not sim.offered
    assert not len(sim.core.leases)


def test_a_request_that_came_over_two_links_is_kept_for_the_other() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.request(old, "r")
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(1)
    new = sim.connect()
    sim.request(new, "r")
    sim.lose(old)
    assert sim.offered == {Delivery("r", "lease-0")}
    sim.write(new)
    assert sim.requested == {"r": 1}


def test_a_request_that_comes_again_is_run_once() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(2):
        sim.request(link, "r")
        sim.write(link)
    sim.result("r")
    sim.request(link, "r")
    sim.write(link)
    sim.ack(link, "r")
    sim.request(link, "r")
    sim.write(link)
    assert sim.requested == {"r": 1}
    assert len(sim.sent(wire.WORKER_REQUEST_ACK)) == 4
    assert len(sim.sent(wire.WORKER_REPLY)) == 1


def test_a_lease_is_extended_with_the_id_of_the_last_answer() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    ids = []
    for number in range(1, 4):
        sim.advance(5)
        sim.write(link)
        data = sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)[-1]
        ids.append(wire.WorkerRequestExtendLeaseData.FromString(data).lease_id)
        sim.extended(link, "r", f"lease-{number}")
    assert ids == ["lease-0", "lease-1", "lease-2"]
    assert Extended(Delivery("r", "lease-0"), "lease-3") in sim.told


def test_a_request_without_a_lease_runs_and_nothing_is_extended() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r", lease_id="")
    sim.write(link)
    sim.advance(60)
    sim.write(link)
    assert sim.requested == {"r": 1}
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)


def test_a_lease_that_is_refused_is_not_asked_for_again() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.extended(link, "r", None)
    sim.extended(link, "r", None)
    sim.advance(60)
    sim.write(link)
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    assert (sim.core.leases.lost, len(sim.core.leases)) == (1, 1)
    assert sum("took back the lease" in text for text in sim.logs) == 1


def test_leases_are_extended_at_once_over_a_new_connection() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.lose(link)
    sim.advance(10)
    link = sim.connect()
    sim.advance(0.001)
    sim.write(link)
    assert sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)


def test_a_status_report_names_the_requests_in_flight() -> None:
    sim = Simulation()
    link = sim.connect(status="3s")
    sim.request(link, "r")
    sim.write(link)
    sim.advance(3)
    sim.write(link)
    (data,) = sim.sent(wire.WORKER_STATUS)
    status = wire.WorkerStatusData.FromString(data)
    assert list(status.in_flight_request_ids) == ["r"]
    assert not status.shutdown_requested


@pytest.mark.parametrize("text", ["soon", "-1s", "0s", ""])
def test_intervals_that_make_no_sense_are_replaced(text: str) -> None:
    sim = Simulation()
    sim.connect(heartbeat=text, extend=text, status=text)
    assert sim.state.heartbeat_interval == 10.0
    sim.advance(9)


# Replies


def test_a_reply_without_an_ack_is_flushed() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.write(link)
    sim.advance(4.9)
    assert not sim.flushes
    sim.advance(0.2)
    sim.flush_answer("r")
    assert sim.delivered == ["r"]
    assert sim.core.replies.flushed == 1


def test_a_reply_that_waits_to_be_written_is_not_flushed() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.advance(60)
    assert not sim.flushes
    sim.write(link)
    sim.ack(link, "r")
    assert sim.delivered == ["r"]


def test_replies_of_a_lost_link_are_flushed_a_few_at_a_time() -> None:
    sim = Simulation()
    link = sim.connect()
    for number in range(10):
        sim.request(link, f"r{number}")
    sim.write(link)
    for number in range(10):
        sim.result(f"r{number}")
    sim.lose(link)
    assert len(sim.flushes) == 4
    while sim.flushes:
        sim.flush_answer(next(iter(sim.flushes)))
    assert sorted(sim.delivered) == [f"r{number}" for number in range(10)]


def test_a_failing_flush_api_is_asked_two_replies_at_a_time_and_ever_slower() -> None:
    sim = Simulation()
    for request_id in "ab":
        sim.result(request_id)
    sim.flush_answer("a", 500)
    sim.flush_answer("b", 500)
    asked = 0
    for _ in range(600):
        sim.advance(1)
        assert len(sim.flushes) <= 2
        while sim.flushes:
            asked += 1
            sim.flush_answer(next(iter(sim.flushes)), 503)
    assert 20 < asked < 60
    assert len(sim.core.replies) == 2
    sim.advance(30)
    while sim.flushes:
        sim.flush_answer(next(iter(sim.flushes)))
    assert sorted(sim.delivered) == ["a", "b"]


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", wire.FlushResponse(request_id="other").SerializeToString()],
)
def test_a_flush_that_is_not_confirmed_is_tried_again(body: bytes) -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    sim.flush_answer("r", 200, body)
    assert not sim.delivered
    sim.advance(1)
    sim.flush_answer("r")
    assert sim.delivered == ["r"]


def test_a_flush_tries_the_other_key_at_once() -> None:
    sim = Simulation(signing_key="one", signing_key_fallback="two")
    sim.result("r")
    assert sim.flushes["r"].signing_key == "one"
    sim.flush_answer("r", 401)
    assert sim.flushes["r"].signing_key == "two"
    sim.flush_answer("r", 401)
    assert not sim.flushes


@pytest.mark.parametrize("status", [400, 413])
def test_a_reply_that_the_server_will_never_take_is_given_up_loudly(
    status: int,
) -> None:
    sim = Simulation()
    sim.result("r")
    sim.flush_answer("r", status)
    assert sim.delivered == ["r"]
    assert sim.core.replies.given_up == 1
    assert any(f"answered {status}" in text for text in sim.logs)


def test_an_ack_that_comes_while_a_reply_is_flushed_settles_it() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.result("r")
    sim.write(link)
    sim.advance(5)
    assert "r" in sim.flushes
    sim.ack(link, "r")
    sim.flush_answer("r", 500)
    assert sim.delivered == ["r"]
    assert not sim.core.replies.waiting


def test_the_reply_buffer_gives_up_the_oldest_and_says_so() -> None:
    sim = Simulation(reply_buffer_size=10_000)
    outcome = Outcome(200, b"x" * 3_000)
    for number in range(10):
        sim.result(f"r{number}", outcome)
        assert sim.core.replies.size <= 10_000 + 4 * 3_100  # what is being flushed
    assert sim.core.replies.given_up > 0
    given_up = sum("buffer is full" in text for text in sim.logs)
    assert given_up == sim.core.replies.given_up == len(sim.delivered)


def test_the_reply_buffer_holds_when_a_link_is_lost() -> None:
    sim = Simulation(reply_buffer_size=10_000)
    link = sim.connect()
    for number in range(10):
        sim.request(link, f"r{number}")
        sim.write(link)
        sim.result(f"r{number}", Outcome(200, b"x" * 3_000))
    # What is on its way to the gateway can't be taken back.
    assert not sim.delivered
    sim.lose(link)
    assert sim.core.replies.size <= 10_000
    assert sim.state.replies_given_up == 7
    assert sim.delivered == [f"r{number}" for number in range(7)]


# Drain, reconnect, shutdown


def test_a_drain_overlaps() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.request(old, "r")
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    assert sim.state.connection == "draining"
    sim.advance(0.3)
    body = next(iter(sim.starts.values())).body
    assert wire.StartRequest.FromString(body).exclude_gateways == ["group"]
    assert old not in sim.closing
    new = sim.connect()
    assert sim.state.connection == "ready"
    assert sim.closing[old].reason == "WORKER_SHUTDOWN"
    sim.result("r")
    sim.write(new)
    assert sim.wire[-1][0] == new


def test_an_old_link_waits_for_the_acks_of_its_replies() -> None:
    sim = Simulation()
    old = sim.connect()
    sim.advance(2)
    sim.request(old, "r")
    sim.write(old)
    sim.result("r")
    sim.write(old)
    sim.receive(old, wire.GATEWAY_CLOSING)
    sim.advance(0.3)
    sim.connect()
    assert old not in sim.closing
    sim.ack(old, "r")
    assert old in sim.closing


def test_a_link_that_lived_is_replaced_at_once_and_one_that_did_not_is_not() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(2)
    sim.lose(link)
    sim.advance(0)
    assert sim.starts
    link = sim.connect()
    sim.lose(link)
    sim.advance(0)
    assert not sim.starts
    sim.advance(1)
    assert sim.starts


def test_a_hopeless_reason_is_explained_and_retried_slowly() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(60)
    link = sim.connect()
    sim.advance(5)
    sim.lose(link, "connect_too_many_apps_per_connection")
    assert "more apps" in str(sim.state.last_error)
    sim.advance(13)
    assert not sim.starts
    sim.advance(15)
    assert sim.starts


def test_shutdown_waits_for_what_runs_and_for_its_replies() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.request(link, "late")
    sim.advance(0.05)
    sim.write(link)
    assert len(sim.sent(wire.WORKER_PAUSE)) == 1
    assert list(sim.requested) == ["r"]
    sim.advance(6)
    sim.write(link)
    assert sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    sim.result("r")
    sim.write(link)
    assert not sim.closing
    sim.ack(link, "r")
    assert sim.closing[link].reason == "WORKER_SHUTDOWN"
    sim.lose(link)
    assert sim.finished == 1
    assert sim.core.next_tick() is None


def test_shutdown_reconnects_for_a_reply_and_takes_nothing_new() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.advance(2)
    sim.request(link, "r")
    sim.write(link)
    sim.drain()
    sim.advance(0.05)
    sim.write(link)
    sim.lose(link)
    sim.advance(0)
    ready = len(sim.sent(wire.WORKER_READY))
    link = sim.connect()
    assert len(sim.sent(wire.WORKER_READY)) == ready
    assert len(sim.sent(wire.WORKER_PAUSE)) == 2
    sim.result("r")
    sim.write(link)
    sim.ack(link, "r")
    assert link in sim.closing


def test_shutdown_gives_up_when_its_time_is_over() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "running")
    sim.request(link, "unacked")
    sim.write(link)
    sim.result("unacked")
    sim.drain(3.0)
    sim.advance(3.0)
    assert any("before a run finished" in text for text in sim.logs)
    assert any("had to shut down" in text for text in sim.logs)
    sim.advance(2.1)  # the gateway does not answer the close
    assert sim.finished == 1


def test_shutdown_takes_back_nothing_that_came_twice() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    # Its second acknowledgement is not on the wire yet.
    sim.request(link, "r")
    sim.drain(0.0)
    assert sim.requested["r"] == 1
    assert not [each for each in sim.told if isinstance(each, Withdrawn)]


@pytest.mark.parametrize("phase", ["starting", "opening", "greeting", "backoff"])
def test_shutdown_while_connecting(phase: str) -> None:
    sim = Simulation()
    if phase == "backoff":
        sim.start_answer(500)
    elif phase != "starting":
        sim.start_answer()
        if phase == "greeting":
            sim.open()
    sim.drain()
    assert sim.finished == 1
    assert not {*sim.starts, *sim.opening, *sim.queued}


def test_a_second_drain_changes_nothing() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.request(link, "r")
    sim.write(link)
    sim.drain(10)
    sim.advance(5)
    sim.drain(10)
    sim.advance(5)
    assert sim.closing


# After a crash


def test_a_new_runtime_takes_up_leases_and_replies() -> None:
    sim = Simulation(
        requests=[lease("running", "lease-9")], results=[Result(lease("done"), DONE)]
    )
    sim.flush_answer("done")
    link = sim.connect()
    sim.advance(0.001)
    sim.write(link)
    (data,) = sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    assert wire.WorkerRequestExtendLeaseData.FromString(data).lease_id == "lease-9"
    sim.request(link, "running", lease_id="lease-9")
    sim.write(link)
    assert not sim.requested


def test_what_a_dead_runtime_was_given_is_not_run_unless_it_comes_again() -> None:
    sim = Simulation(offered=[lease("perhaps"), lease("again")])
    assert not sim.offered
    assert sum("died as it took a request" in text for text in sim.logs) == 2
    link = sim.connect()
    sim.advance(0.001)
    sim.write(link)
    # That the lease is extended would not say that the acknowledgement has arrived.
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    sim.request(link, "again")
    sim.write(link)
    assert sim.requested == {"again": 1}


def test_a_new_runtime_counts_on() -> None:
    old = Simulation()
    link = old.connect()
    old.request(link, "r")
    old.write(link)
    old.result("r")
    old.write(link)
    old.ack(link, "r")
    old.do(old.core.received(link, b"\xff", old.now))
    old.advance(1)
    new = Simulation(state=old.state)
    assert new.state.connection == "reconnecting"
    new.connect()
    assert (new.state.requests_done, new.state.malformed) == (1, 1)
    assert new.state.reconnects_by == {"runtime_crashed": 1}
    assert new.state.reconnects == 1


def test_a_new_runtime_knows_a_result_that_came_meanwhile() -> None:
    sim = Simulation(requests=[lease("r")], results=[Result(lease("r"), DONE)])
    assert not len(sim.core.leases)
    assert list(sim.flushes) == ["r"]


def test_a_new_runtime_runs_nothing_that_is_over() -> None:
    sim = Simulation(settled=[Delivery("over", "lease-0")])
    link = sim.connect()
    sim.request(link, "over")
    sim.write(link)
    assert not sim.requested
    assert sim.sent(wire.WORKER_REQUEST_ACK)


# The app's loop


def test_a_stalled_app_is_told_of_once() -> None:
    sim = Simulation()
    sim.connect(heartbeat="1h")
    sim.advance(5)
    stalls = [m for m in sim.told if isinstance(m, Stalled)]
    assert len(stalls) == 1
    assert sim.state.app_waiting_since is not None
    sim.pong()
    sim.advance(1)
    assert sim.state.app_waiting_since is None
    assert sim.state.app_lag == pytest.approx(5, abs=0.1)


def test_a_stalled_app_gets_no_requests_until_it_answers() -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect(heartbeat="1h")
    sim.request(link, "before")
    sim.write(link)
    sim.advance(2)
    sim.write(link)
    assert sim.sent(wire.WORKER_PAUSE)
    assert sim.state.paused
    sim.request(link, "during")
    sim.write(link)
    assert list(sim.requested) == ["before"]
    sim.pong()
    new = sim.connect(heartbeat="1h")
    assert link in sim.closing
    sim.request(new, "after")
    sim.write(new)
    assert list(sim.requested) == ["before", "after"]
    assert not sim.state.paused


def test_a_connection_made_during_a_stall_is_paused() -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect()
    sim.advance(3)
    sim.lose(link)
    sim.advance(0)
    sim.connect()
    assert len(sim.sent(wire.WORKER_READY)) == 1
    sim.pong()
    sim.connect()
    assert len(sim.sent(wire.WORKER_READY)) == 2


# What is counted, and why it happened


def drained(sim: Simulation, link: int) -> None:
    sim.receive(link, wire.GATEWAY_CLOSING)
    sim.advance(1)


def silent(sim: Simulation, link: int) -> None:
    sim.advance(20.1)


def stalled(sim: Simulation, link: int) -> None:
    sim.advance(3)
    sim.pong()


@pytest.mark.parametrize(
    ("happen", "reason"),
    [
        (drained, "gateway_closing"),
        (lambda sim, link: sim.lose(link, "connect_gateway_closing"), CLOSING),
        (silent, "heartbeat_timeout"),
        (lambda sim, link: sim.lose(link), "connection_lost"),
        (lambda sim, link: sim.lose(link, "anything at all"), "connection_lost"),
        (stalled, "app_stalled"),
    ],
)
def test_a_reconnect_is_counted_by_its_reason(
    happen: Callable[[Simulation, int], None], reason: str
) -> None:
    sim = Simulation(stall_timeout=2.0)
    link = sim.connect()
    happen(sim, link)
    assert sim.state.reconnects_by == {}
    sim.advance(1)
    sim.connect()
    assert sim.state.reconnects_by == {reason: 1}
    assert sim.state.failures_by == {}
    assert reason in RECONNECT_REASONS


def refused(sim: Simulation) -> None:
    link = next(iter(sim.starts))
    del sim.starts[link]
    sim.lose(link, "the start API could not be reached: refused")


def gateway_is_away(sim: Simulation) -> None:
    sim.start_answer()
    link = next(iter(sim.opening))
    del sim.opening[link]
    sim.lose(link, "the gateway answered 502")


def closing_in_the_handshake(sim: Simulation) -> None:
    sim.start_answer()
    sim.receive(sim.open(), wire.GATEWAY_CLOSING)


@pytest.mark.parametrize(
    ("happen", "reason"),
    [
        (refused, "api_unreachable"),
        (lambda sim: sim.advance(10), "api_unreachable"),
        (lambda sim: sim.start_answer(503), "api_rejected"),
        (lambda sim: sim.start_answer(401), "api_rejected"),
        (lambda sim: sim.start_answer(body=b"garbage"), "api_rejected"),
        (gateway_is_away, "handshake_failed"),
        (closing_in_the_handshake, "gateway_closing"),
    ],
)
def test_an_attempt_that_fails_is_counted_by_its_reason(
    happen: Callable[[Simulation], None], reason: str
) -> None:
    sim = Simulation()
    happen(sim)
    assert sim.state.failures_by == {reason: 1}
    assert reason in FAILURE_REASONS
    sim.advance(30)
    sim.starts = dict(list(sim.starts.items())[-1:])
    sim.connect()
    assert sim.state.reconnects_by == {}


# Input that makes no sense


def test_nonsense_is_counted_and_logged_once_and_the_link_goes_on() -> None:
    sim = Simulation()
    link = sim.connect()
    for _ in range(100):
        sim.do(sim.core.received(link, b"\xff\xff\xff", sim.now))
        sim.do(sim.core.received(link, "text", sim.now))
        sim.receive(link, 77)  # type: ignore[arg-type]
        sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST, b"\xff\xff")
        sim.receive(link, wire.GATEWAY_EXECUTOR_REQUEST)
        sim.request(link, "r", app="unknown")
    sim.request(link, "good")
    sim.write(link)
    assert sim.requested == {"good": 1}
    assert len([text for text in sim.logs if text.startswith("Ignored")]) == 6
    sim.advance(1)
    assert sim.state.malformed == 500


def test_answers_nobody_asked_for_are_ignored() -> None:
    sim = Simulation()
    link = sim.connect()
    sim.ack(link, "never")
    sim.extended(link, "never", "lease-1")
    sim.extended(link, "never", None)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.do(sim.core.received(99, b"", sim.now))
    sim.do(sim.core.start_answered(99, 200, b"", sim.now))
    sim.do(sim.core.lost(99, "", sim.now))
    sim.do(sim.core.sent(Send(99, b"", Delivery("never", "")), sim.now))
    sim.do(sim.core.opened(99, sim.now))
    never = Delivery("never", "")
    sim.do(sim.core.flush_answered(never, 200, b"", sim.now))
    sim.advance(5)
    assert sim.state.connection == "ready"
    assert not sim.delivered


def test_the_state_is_in_the_time_of_a_clock_that_was_set() -> None:
    sim = Simulation()
    sim.connect()
    sim.core.telling.epoch = 1000.0
    sim.advance(11)
    assert 1010.0 < sim.state.at <= 1000.0 + sim.now
    assert sim.state.heartbeat_sent_at is not None
    assert sim.state.heartbeat_sent_at == 1010.0


def test_requests_run_and_are_counted() -> None:
    sim = Simulation()
    link = sim.connect()
    for number, status in enumerate((200, 206, 500)):
        sim.request(link, f"r{number}")
        sim.write(link)
        sim.result(f"r{number}", Outcome(status, b"{}"))
        sim.write(link)
        sim.ack(link, f"r{number}")
    sim.advance(1)
    assert (sim.state.requests_done, sim.state.requests_failed) == (2, 1)
    statuses = [
        wire.SDKResponse.FromString(data).status for data in sim.sent(wire.WORKER_REPLY)
    ]
    assert statuses == [wire.DONE, wire.NOT_COMPLETED, wire.ERROR]
