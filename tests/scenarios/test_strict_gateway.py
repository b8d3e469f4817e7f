"""LocalGateway is never kinder than the server; docs/testing.md has the table."""

from __future__ import annotations

import contextlib
import inspect
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway, sockets
from inngest_connect_asgi.testing.connection import Connection
from inngest_connect_asgi.testing.store import Store

from ..bare_worker import FUNCTIONS, Request, Wire, context, opened, ready
from ..harness import deliveries_of, off_loop, run, until


async def send_event(gateway: LocalGateway) -> str:
    return await off_loop(gateway.send, "test")


async def wait_until(gateway: LocalGateway, predicate: Any) -> Any:
    return await off_loop(gateway.wait_until, predicate)


def connection_of(gateway: LocalGateway, worker: Wire) -> Connection:
    (found,) = [c for c in gateway.connections if c.id == worker.start.connection_id]
    return found


def sent(gateway: LocalGateway) -> list[str]:
    """The ids of the requests that were sent, in order."""
    return [
        seen.message.request_id
        for seen in gateway.seen
        if seen.kind == "GATEWAY_EXECUTOR_REQUEST" and isinstance(seen.message, Request)
    ]


# Requests that are given back


def test_a_pause_gives_back_what_is_not_acknowledged() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                await send_event(gateway)
                request = await first.take()
                await first.send(wire.WORKER_PAUSE)
                async with ready(gateway) as second:
                    again = await second.take_and_ack()
                    # The same request, under the same lease.
                    assert again == request
                    await first.ack(request)
                    (void,) = await wait_until(gateway, lambda: gateway.void_acks)
                    assert void.id == request.request_id
                    assert void.connection is connection_of(gateway, first)
                    delivery = deliveries_of(gateway)[request.request_id]
                    assert delivery.void_acks == [connection_of(gateway, first)]
                    assert delivery.acked_by == [connection_of(gateway, second)]
                    assert gateway.executions == {request.request_id: 1}

    run(main)


def test_a_drain_gives_back_before_it_says_that_the_gateway_closes() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                gateway.faults.mute = {"GATEWAY_CLOSING"}
                await send_event(gateway)
                request = await first.take()
                await off_loop(gateway.drain)
                await first.ack(request)
                await wait_until(gateway, lambda: gateway.void_acks)
                assert not gateway.executions

    run(main)


def test_a_socket_that_ends_gives_back_what_is_not_acknowledged() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as second, ready(gateway) as first:
                await send_event(gateway)
                target, other = first, second
                delivery = await wait_until(
                    gateway,
                    lambda: list(deliveries_of(gateway).values()),
                )
                await wait_until(gateway, lambda: delivery[0].sent_to)
                if delivery[0].sent_to[0] is connection_of(gateway, second):
                    target, other = second, first
                request = await target.take()
                await off_loop(gateway.drop, connection_of(gateway, target))
                assert await other.take() == request

    run(main)


def test_what_was_acknowledged_stays_when_the_socket_ends() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                await send_event(gateway)
                request = await first.take_and_ack()
                await wait_until(gateway, lambda: gateway.executions)
                async with ready(gateway) as second:
                    await first.socket.close()
                    await wait_until(
                        gateway, lambda: gateway.connections[0].phase == "closed"
                    )
                    assert await second.extend(request)
                    await second.reply(request)
                    assert sent(gateway) == [request.request_id]

    run(main)


def test_a_second_acknowledgement_is_void() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first, ready(gateway) as second:
                target = connection_of(gateway, first)
                delivery = gateway.request("app-f", connection=target)
                request = await first.take_and_ack()
                await wait_until(gateway, lambda: delivery.acked_by)
                await first.ack(request)
                await wait_until(gateway, lambda: len(gateway.void_acks) == 1)
                # And one on a connection that the request was not sent over.
                await second.ack(request)
                await wait_until(gateway, lambda: len(gateway.void_acks) == 2)
                assert gateway.executions == {request.request_id: 1}

    run(main)


def test_a_request_is_forwarded_three_times_under_one_lease() -> None:
    async def main() -> None:
        with LocalGateway(retry_delay=0.0) as gateway:
            requests = []
            async with contextlib.AsyncExitStack() as workers:
                for number in range(4):
                    worker = await workers.enter_async_context(opened(gateway))
                    await worker.shake_hands()
                    if number == 0:
                        await send_event(gateway)
                    requests.append(await worker.take())
                    await worker.send(wire.WORKER_PAUSE)
            assert requests[0] == requests[1] == requests[2]
            # The attempt has failed, and the fourth is a dispatch of the next one.
            assert requests[3].request_id != requests[0].request_id
            assert requests[3].lease_id != requests[0].lease_id
            assert requests[3].job_id == requests[0].job_id
            assert [context(request)["attempt"] for request in requests] == [0, 0, 0, 1]

    run(main)


def test_an_attempt_fails_where_no_other_connection_is_there() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                await send_event(gateway)
                request = await first.take()
            await wait_until(gateway, lambda: gateway.runs[0].attempts)
            async with ready(gateway) as second:
                retry = await second.take()
            assert retry.request_id != request.request_id
            assert (retry.job_id, context(retry)["attempt"]) == (request.job_id, 1)

    run(main)


def test_a_request_without_an_acknowledgement_is_given_back_after_its_lease() -> None:
    async def main() -> None:
        with LocalGateway(lease_duration=0.2) as gateway:
            async with ready(gateway) as worker:
                await send_event(gateway)
                request = await worker.take()
                assert await worker.take() == request

    run(main)


def test_a_draining_gateway_holds_what_is_routed_to_it() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                await off_loop(gateway.drain)
                await first.receive(wire.GATEWAY_CLOSING)
                # The router does not know yet that it drains.
                await send_event(gateway)
                async with ready(gateway) as second:
                    await second.beat()
                    assert not sent(gateway)
                    await first.socket.close(1000, "WORKER_SHUTDOWN")
                    await second.take()

    run(main)


def test_a_heartbeat_tells_the_router_that_the_gateway_drains() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                await off_loop(gateway.drain)
                await first.receive(wire.GATEWAY_CLOSING)
                await first.beat()
                await send_event(gateway)
                async with ready(gateway) as second:
                    await second.take()

    run(main)


# Leases


@pytest.mark.parametrize("honoured", [False, True])
def test_a_superseded_lease_id_is_refused_or_honoured_once(honoured: bool) -> None:
    async def main() -> None:
        with LocalGateway(honour_previous_lease=honoured) as gateway:
            async with ready(gateway) as worker:
                delivery = gateway.request("app-f")
                request = await worker.take_and_ack()
                second = await worker.extend(request)
                assert second not in ("", request.lease_id)
                assert await worker.extend(request) == (second if honoured else "")
                third = await worker.extend(request, second)
                assert third not in ("", second)
                # It remembers one predecessor, and no more.
                assert await worker.extend(request) == ""
                assert delivery.lease_ids == [request.lease_id, second, third]

    run(main)


def test_a_superseded_lease_id_is_honoured_for_the_same_instance_only() -> None:
    async def main() -> None:
        with LocalGateway(honour_previous_lease=True) as gateway:
            async with (
                ready(gateway) as first,
                ready(gateway) as same,
                ready(gateway, instance_id="another") as another,
            ):
                gateway.request("app-f", connection=connection_of(gateway, first))
                request = await first.take_and_ack()
                second = await first.extend(request)
                assert await another.extend(request) == ""
                assert await same.extend(request) == second

    run(main)


def test_an_extension_proves_nothing_about_an_acknowledgement() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as first:
                await send_event(gateway)
                request = await first.take()
                await first.send(wire.WORKER_PAUSE)
                async with ready(gateway) as second:
                    await second.take_and_ack()
                    # It was given back, and is run elsewhere.
                    assert await first.extend(request)

    run(main)


def test_a_lease_that_has_run_out_is_extended_until_it_is_deleted() -> None:
    store = Store(0.01, honour_previous_lease=False)
    lease_id = store.lease("r")
    assert lease_id
    assert store.lease("r") is None
    while store.lease_until("r") > time.monotonic():
        time.sleep(0.001)
    second = store.extend("me", "r", lease_id)
    assert second
    while store.lease_until("r") > time.monotonic():
        time.sleep(0.001)
    # Under whatever id.
    assert store.extend("me", "r", lease_id)
    store.delete_lease("r")
    assert store.extend("me", "r", second) is None


def test_a_lease_is_deleted_with_the_reply() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                await send_event(gateway)
                request = await worker.take_and_ack()
                await worker.reply(request)
                await wait_until(gateway, lambda: gateway.runs[0].status == "completed")
                assert await worker.extend(request) == ""

    run(main)


def test_a_limited_worker_extends_only_what_is_assigned_to_it() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway, instance_id="a", max_worker_concurrency=2) as a:
                await send_event(gateway)
                request = await a.take()
                await a.send(wire.WORKER_PAUSE)
                async with ready(
                    gateway, instance_id="b", max_worker_concurrency=2
                ) as b:
                    await b.take_and_ack()
                    # It is the current id, but the request is another's.
                    assert await a.extend(request) == ""
                    assert await b.extend(request)

    run(main)


@pytest.mark.parametrize("lease_id", ["", "no ULID", "Z" * 26])
def test_a_lease_id_that_is_no_ulid_closes_the_connection(lease_id: str) -> None:
    reason = "connect_worker_request_extend_lease_invalid_payload"

    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                gateway.request("app-f")
                request = await worker.take_and_ack()
                await worker.ask_to_extend(request, lease_id)
                assert await worker.closed() == (1008, reason)
                (connection,) = gateway.connections
                await wait_until(gateway, lambda: connection.phase == "closed")
                assert connection.disconnect_reason == reason

    run(main)


def test_a_worker_that_lets_a_lease_run_out_loses_the_attempt() -> None:
    async def main() -> None:
        with LocalGateway(lease_duration=0.2) as gateway:
            async with ready(gateway) as worker:
                await send_event(gateway)
                request = await worker.take_and_ack()
                retry = await worker.take()
                assert retry.request_id != request.request_id
                assert (retry.job_id, context(retry)["attempt"]) == (request.job_id, 1)
                # The lease is there, and helps nobody.
                assert await worker.extend(request)

    run(main)


# Request ids and replies


@pytest.mark.parametrize("ids", ["dispatch", "job"])
def test_a_retry_has_the_job_id_and_perhaps_the_request_id(ids: Any) -> None:
    async def main() -> None:
        with LocalGateway(request_ids=ids) as gateway:
            async with ready(gateway) as worker:
                await send_event(gateway)
                first = await worker.take_and_ack()
                await worker.fail(first)
                second = await worker.take_and_ack()
                await worker.reply(second)
        assert first.job_id == second.job_id
        assert first.lease_id != second.lease_id
        assert (first.request_id == second.request_id) == (ids == "job")
        assert (first.request_id == first.job_id) == (ids == "job")
        for request in (first, second):
            assert context(request)["request_id"] == request.request_id
            assert context(request)["job_id"] == request.job_id

    run(main)


def test_the_first_reply_to_a_request_counts() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                event_id = await send_event(gateway)
                request = await worker.take_and_ack()
                await worker.reply(request)
                await worker.reply(request, body=b'"another"')
                ended = await off_loop(gateway.wait_for_run, event_id)
                assert ended.output == "done"

    run(main)


def test_a_late_reply_answers_the_next_attempt_under_the_same_id() -> None:
    async def main() -> None:
        with LocalGateway(request_ids="job", retry_delay=0.5) as gateway:
            async with ready(gateway) as worker:
                event_id = await send_event(gateway)
                request = await worker.take_and_ack()
                await worker.fail(request)
                await worker.reply(request)
                ended = await off_loop(gateway.wait_for_run, event_id)
                assert ended.status == "completed"
                assert len(sent(gateway)) == 1

    run(main)


# Amnesia


def without_ids(request: Request) -> dict[str, Any]:
    return {k: v for k, v in context(request).items() if k != "request_id"}


@pytest.mark.parametrize("leases", ["lost", "kept", "over"])
def test_an_executor_that_died_sends_the_same_attempt_again(leases: Any) -> None:
    async def main() -> None:
        with LocalGateway(lease_duration=3.0 if leases == "over" else 20.0) as gateway:
            async with ready(gateway) as worker:
                event_id = await send_event(gateway)
                first = await worker.take_and_ack()
                await off_loop(gateway.restart_executor, leases)
                second = await worker.take_and_ack()
                assert second.request_id != first.request_id
                assert second.job_id == first.job_id
                assert without_ids(second) == without_ids(first)
                delivery = deliveries_of(gateway)[first.request_id]
                if leases == "over":
                    assert time.monotonic() >= delivery.lease_until
                # The lease of the first is there, or not.
                assert bool(await worker.extend(first)) == (leases != "lost")
                # Its reply is taken, and helps nobody.
                await worker.reply(first, body=b'"first"')
                assert gateway.runs[0].status == "running"
                await worker.reply(second, body=b'"second"')
                ended = await off_loop(gateway.wait_for_run, event_id)
                assert (ended.output, ended.attempts) == ("second", 1)
                assert ended.request_ids == [first.request_id, second.request_id]

    run(main)


def test_an_executor_that_died_waits_for_a_lease_under_the_same_request_id() -> None:
    async def main() -> None:
        with LocalGateway(request_ids="job", lease_duration=1.0) as gateway:
            async with ready(gateway) as worker:
                await send_event(gateway)
                first = await worker.take_and_ack()
                extended = await worker.extend(first)
                await off_loop(gateway.restart_executor, "kept")
                second = await worker.take_and_ack()
                assert second.request_id == first.request_id
                assert second.lease_id not in (first.lease_id, extended)
                assert context(second) == context(first)
                assert len(sent(gateway)) == 2

    run(main)


def test_an_executor_that_died_takes_a_reply_under_the_same_request_id() -> None:
    async def main() -> None:
        with LocalGateway(request_ids="job") as gateway:
            async with ready(gateway) as worker:
                event_id = await send_event(gateway)
                request = await worker.take_and_ack()
                await off_loop(gateway.restart_executor, "kept")
                await worker.reply(request)
                ended = await off_loop(gateway.wait_for_run, event_id)
                assert ended.output == "done"
                assert len(sent(gateway)) == 1

    run(main)


# Capacity


def test_capacity_is_counted_by_instance_and_the_last_to_declare_it_wins() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with (
                ready(gateway, max_worker_concurrency=5) as first,
                ready(gateway, max_worker_concurrency=1) as second,
            ):
                for _ in range(2):
                    await send_event(gateway)
                await wait_until(gateway, lambda: sent(gateway))
                await first.send(wire.WORKER_HEARTBEAT)
                await second.send(wire.WORKER_HEARTBEAT)
                await wait_until(
                    gateway, lambda: len(gateway.received("WORKER_HEARTBEAT")) == 2
                )
                assert len(sent(gateway)) == 1

    run(main)


def test_a_request_counts_until_it_is_replied_to_or_given_back() -> None:
    store = Store(20.0, honour_previous_lease=False)
    store.set_capacity("me", 1)
    assert store.assign("me", "r")
    assert not store.assign("me", "s")
    lease_id = store.lease("r")
    assert lease_id
    assert store.extend("me", "r", lease_id)
    assert not store.has_room("me")
    # Who gave it back has no say once another has it.
    store.set_capacity("another", 1)
    assert store.assign("another", "r")
    store.unassign("me", "r")
    assert not store.has_room("me")
    store.unassign("another", "r")
    store.unassign("me", "r")
    assert store.has_room("me")
    store.set_capacity("me", 0)
    assert all(store.assign("me", str(number)) for number in range(100))


# Phases


def test_nothing_is_answered_before_the_worker_is_ready() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                delivery = gateway.request("app-f")
                request = await worker.take_and_ack()
                async with opened(gateway) as early:
                    await early.receive(wire.GATEWAY_HELLO)
                    await early.send(wire.WORKER_CONNECT, early.hello())
                    await early.receive(wire.GATEWAY_CONNECTION_READY)
                    await early.send(wire.WORKER_HEARTBEAT)
                    await early.ask_to_extend(request, request.lease_id)
                    await early.send_reply(request)
                    await wait_until(gateway, lambda: delivery.reply)
                    # All of it was done.
                    assert delivery.extensions == 1
                    await early.send(wire.WORKER_READY)
                    await early.beat()

    run(main)


def test_requests_are_routed_only_to_a_worker_that_says_it_is_ready() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with opened(gateway) as worker:
                await worker.receive(wire.GATEWAY_HELLO)
                await worker.send(wire.WORKER_CONNECT, worker.hello())
                await worker.receive(wire.GATEWAY_CONNECTION_READY)
                await send_event(gateway)
                await worker.send(wire.WORKER_HEARTBEAT)
                await wait_until(gateway, lambda: gateway.received("WORKER_HEARTBEAT"))
                assert not sent(gateway)
                await worker.send(wire.WORKER_READY)
                await worker.take()

    run(main)


def test_requests_are_routed_only_where_the_function_is() -> None:
    other = FUNCTIONS.replace(b"app-f", b"app-g").replace(b'"test"', b'"other"')

    async def main() -> None:
        with LocalGateway() as gateway:
            apps = [wire.AppConfiguration(app_name="app", functions=other)]
            async with ready(gateway, apps=apps) as stranger, ready(gateway) as worker:
                for _ in range(4):
                    await send_event(gateway)
                    await worker.take_and_ack()
                await stranger.beat()

    run(main)


def test_a_worker_that_is_silent_for_two_intervals_gets_no_requests() -> None:
    async def main() -> None:
        with LocalGateway(heartbeat_interval="500ms") as gateway:
            async with ready(gateway) as worker:
                (connection,) = gateway.connections
                await until(lambda: time.monotonic() > connection.status_at + 1.0)
                await send_event(gateway)
                await off_loop(lambda: gateway.wait_until(lambda: gateway.runs))
                assert not sent(gateway)
                await worker.beat()
                await worker.take()

    run(main)


def test_a_worker_that_has_paused_can_not_be_ready_again() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                await worker.send(wire.WORKER_PAUSE)
                await worker.send(wire.WORKER_READY)
                await worker.beat()
                (connection,) = gateway.connections
                assert connection.phase == "paused"

    run(main)


def test_a_worker_can_not_be_ready_where_the_gateway_drains() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                await off_loop(gateway.drain)
                await worker.receive(wire.GATEWAY_CLOSING)
                await worker.send(wire.WORKER_READY)
                assert await worker.closed() == (1001, "connect_gateway_closing")

    run(main)


def test_a_draining_gateway_answers_until_the_worker_closes() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                gateway.request("app-f")
                request = await worker.take_and_ack()
                await off_loop(gateway.drain)
                await worker.receive(wire.GATEWAY_CLOSING)
                await worker.beat()
                assert await worker.extend(request)
                await worker.reply(request)

    run(main)


def test_a_draining_gateway_waits_25_seconds_for_the_worker_to_close() -> None:
    parameters = inspect.signature(LocalGateway).parameters
    assert parameters["drain_timeout"].default == 25.0

    async def main() -> None:
        with LocalGateway(drain_timeout=0.2) as gateway:
            async with ready(gateway) as worker:
                await off_loop(gateway.drain)
                await worker.receive(wire.GATEWAY_CLOSING)
                assert await worker.closed() == (1001, "connect_gateway_closing")

    run(main)


# How messages are handled


def test_control_messages_overtake_data() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                gateway.request("app-f")
                request = await worker.take()
                gateway.faults.hold = {"WORKER_REQUEST_ACK"}
                await worker.ack(request)
                await worker.send(wire.WORKER_PAUSE)
                await worker.beat()
                gateway.faults.hold = set()
                await wait_until(gateway, lambda: gateway.void_acks)
                assert not gateway.executions

    run(main)


def test_data_is_handled_five_at_a_time() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                deliveries = [gateway.request("app-f") for _ in range(6)]
                requests = [await worker.take() for _ in deliveries]
                gateway.faults.hold = {"WORKER_REPLY"}
                for request in requests[:4]:
                    await worker.send_reply(request)
                # A handler is free.
                await worker.ack(requests[4])
                await wait_until(gateway, lambda: deliveries[4].acked_by)
                await worker.send_reply(requests[4])
                # Now there is none, but for heartbeats.
                await worker.ack(requests[5])
                await worker.beat()
                assert not deliveries[5].acked_by
                gateway.faults.hold = set()
                await wait_until(gateway, lambda: deliveries[5].acked_by)

    run(main)


def test_a_status_report_within_two_seconds_is_ignored() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                for _ in range(3):
                    await worker.send(wire.WORKER_STATUS)
                # An acknowledgement is handled after them.
                gateway.request("app-f")
                await worker.ack(await worker.take())
                await wait_until(gateway, lambda: gateway.executions)
                (connection,) = gateway.connections
                assert len(gateway.received("WORKER_STATUS")) == 3
                assert len(connection.status_reports) == 1

    run(main)


# How connections end


@pytest.mark.parametrize(
    ("code", "reason", "recorded"),
    [
        (1000, "WORKER_SHUTDOWN", "WORKER_SHUTDOWN"),
        (1000, "", "UNEXPECTED"),
        (1001, "", "UNEXPECTED"),
        (1000, "bye", "bye"),
        (1001, "connect_gateway_closing", "GATEWAY_DRAINING"),
    ],
)
@pytest.mark.parametrize("draining", [False, True])
def test_a_close_without_the_reason_is_unexpected(
    code: int, reason: str, recorded: str, draining: bool
) -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                if draining:
                    await off_loop(gateway.drain)
                await worker.socket.close(code, reason)
            (connection,) = gateway.connections
            await wait_until(gateway, lambda: connection.phase == "closed")
            if draining and recorded == "UNEXPECTED":
                assert connection.disconnect_reason == "GATEWAY_DRAINING"
            else:
                assert connection.disconnect_reason == recorded

    run(main)


def test_a_connection_that_breaks_is_unexpected() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway):
                (connection,) = gateway.connections
                await off_loop(gateway.drop)
                await wait_until(gateway, lambda: connection.phase == "closed")
                assert connection.disconnect_reason == "UNEXPECTED"

    run(main)


def test_a_silent_worker_is_cut_off_after_five_intervals() -> None:
    async def main() -> None:
        with LocalGateway(heartbeat_interval="50ms") as gateway:
            async with ready(gateway) as worker:
                assert (await worker.closed())[0] == 1006
                (connection,) = gateway.connections
                await wait_until(gateway, lambda: connection.phase == "closed")
                assert connection.disconnect_reason == "CONSECUTIVE_HEARTBEATS_MISSED"

    run(main)


def test_a_message_over_8_mib_closes_the_connection() -> None:
    async def main() -> None:
        with LocalGateway() as gateway:
            async with ready(gateway) as worker:
                with contextlib.suppress(ConnectionClosed):
                    await worker.send_reply(Request(), body=b"x" * 8 * 1024 * 1024)
                assert await worker.closed() == (1009, "read limited at 8388609 bytes")
                (connection,) = gateway.connections
                await wait_until(gateway, lambda: connection.phase == "closed")
                assert connection.disconnect_reason == "MESSAGE_TOO_LARGE"

    run(main)


def test_a_worker_that_does_not_introduce_itself_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert sockets.HELLO_TIMEOUT == 5.0
    monkeypatch.setattr(sockets, "HELLO_TIMEOUT", 0.1)

    async def main() -> None:
        with LocalGateway() as gateway:
            async with opened(gateway) as worker:
                await worker.receive(wire.GATEWAY_HELLO)
                assert await worker.closed() == (1008, "connect_worker_hello_timeout")

    run(main)
