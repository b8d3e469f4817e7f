"""What goes over the wire, and whatever else may come."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inngest_connect_asgi.messages import Outcome
from inngest_connect_asgi.protocol import frames
from inngest_connect_asgi.protocol.wire import connect as wire

from ..simulation import Simulation, configuration, lease

MESSAGES = [
    wire.ConnectMessage,
    wire.StartResponse,
    wire.GatewayConnectionReadyData,
    wire.GatewayExecutorRequestData,
    wire.WorkerReplyAckData,
    wire.WorkerRequestExtendLeaseAckData,
    wire.SystemError,
]


@given(st.one_of(st.text(), st.binary(max_size=200)))
def test_anything_is_a_message_or_malformed(data: str | bytes) -> None:
    try:
        message = frames.decode(data)
    except frames.Malformed:
        return
    assert isinstance(message.payload, bytes)


@given(st.sampled_from(MESSAGES), st.binary(max_size=200))
def test_any_payload_is_parsed_or_malformed(
    message: type[wire.ConnectMessage], data: bytes
) -> None:
    try:
        frames.parse(message, data)
    except frames.Malformed:
        return


@given(st.binary(max_size=200))
def test_any_request_is_parsed_or_malformed(data: bytes) -> None:
    try:
        request = frames.executor_request(data)
    except frames.Malformed:
        return
    assert request.app_name
    assert request.lease.request_id


@given(st.lists(st.binary(max_size=60), max_size=20), st.integers(0, 16))
def test_whatever_a_gateway_sends_the_next_good_request_runs(
    junk: list[bytes], kind: int
) -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    for data in junk:
        sim.do(sim.core.received(link, data, sim.now))
        if link in sim.queued and kind != wire.GATEWAY_CLOSING:
            sim.receive(link, kind, data)
    if sim.core.links.live is None:
        # It happened upon a GATEWAY_CLOSING.
        return
    sim.request(link, "good")
    sim.write(link)
    assert sim.requested["good"] == 1


def test_the_worker_says_who_it_is() -> None:
    chosen = configuration(environment="branch", cpu_cores=2, memory=1024, os="linux")
    start = wire.StartResponse(
        connection_id="c", session_token="session", sync_token="sync"
    )
    frame = frames.decode(frames.worker_connect(chosen, start, started_at=1.5))
    assert frame.kind == wire.WORKER_CONNECT
    data = wire.WorkerConnectRequestData.FromString(frame.payload)
    assert data.auth_data == wire.AuthData(session_token="session", sync_token="sync")
    assert json.loads(data.capabilities) == {"trust_probe": "v1", "connect": "v1"}
    assert (data.framework, data.sdk_language) == ("connect", "py")
    assert data.system_attributes == wire.SystemAttributes(
        cpu_cores=2, mem_bytes=1024, os="linux"
    )
    assert data.started_at == wire.Timestamp(seconds=1, nanos=500_000_000)
    assert data.max_worker_concurrency is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, wire.DONE), (206, wire.NOT_COMPLETED), (500, wire.ERROR), (400, wire.ERROR)],
)
def test_a_reply_echoes_what_the_server_wants(status: int, kind: int) -> None:
    outcome = Outcome(
        status, b"body", no_retry=True, retry_after="10", request_version=1
    )
    reply = wire.SDKResponse.FromString(frames.reply(lease("r"), outcome))
    assert (reply.request_id, reply.status, reply.body) == ("r", kind, b"body")
    assert (reply.no_retry, reply.retry_after) == (True, "10")
    assert reply.system_trace_ctx == b"{}"


def test_what_the_gateway_is_told_of_a_lease() -> None:
    held = replace(lease("job"), step_id="step", lease_id="lease-9")
    frame = frames.decode(frames.request_ack(held))
    assert frame.kind == wire.WORKER_REQUEST_ACK
    ack = wire.WorkerRequestAckData.FromString(frame.payload)
    assert (ack.request_id, ack.step_id) == ("job", "step")
    frame = frames.decode(frames.extend_lease(held))
    assert frame.kind == wire.WORKER_REQUEST_EXTEND_LEASE
    asked = wire.WorkerRequestExtendLeaseData.FromString(frame.payload)
    assert (asked.request_id, asked.lease_id) == ("job", "lease-9")


def test_a_status_names_what_runs() -> None:
    frame = frames.decode(frames.status(["a", "b"], shutdown_requested=True))
    assert frame.kind == wire.WORKER_STATUS
    data = wire.WorkerStatusData.FromString(frame.payload)
    assert list(data.in_flight_request_ids) == ["a", "b"]
    assert data.shutdown_requested


def test_a_kind_has_a_name_known_or_not() -> None:
    assert frames.name(wire.WORKER_READY) == "WORKER_READY"
    assert frames.name(77) == "message of kind 77"
