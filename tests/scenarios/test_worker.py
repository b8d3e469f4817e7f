"""Workers of this process, against LocalGateway, over real sockets.

Every test runs twice, with the runtime in a thread and in a process of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime
import itertools
import json
import logging
import threading
import time
from typing import Any

import inngest
import pytest

from inngest_connect_asgi import InngestConnectMiddleware
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.testing import LocalGateway
from inngest_connect_asgi.worker.runs import RUNS_PER_TURN

from ..harness import (
    StartupFailed,
    bare_app,
    close_http,
    lifespan,
    make_client,
    make_function,
    off_loop,
    run,
    until,
    worker,
)

pytestmark = pytest.mark.usefixtures("isolation")

KEY = "signkey-test-" + "ab" * 16
OTHER_KEY = "signkey-test-" + "cd" * 16


async def noop(ctx: inngest.Context) -> str:
    return "done"


class Gate:
    """A function that runs until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = asyncio.Event()
        self.calls = 0

    async def __call__(self, ctx: inngest.Context) -> str:
        self.calls += 1
        self.entered.set()
        await self.opened.wait()
        return "done"


def gated() -> tuple[Gate, Any]:
    gate = Gate()

    async def hold(ctx: inngest.Context) -> str:
        return await gate(ctx)

    return gate, hold


# Running functions


def test_runs_a_function_to_its_end(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with worker(gateway, noop):
            result = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert (result.status, result.output) == ("completed", "done")

    run(main)


def test_runs_every_kind_of_step(gateway: LocalGateway) -> None:
    async def main() -> None:
        client = make_client(gateway)
        sent = []

        async def other(ctx: inngest.Context) -> int:
            number = ctx.event.data["n"]
            assert isinstance(number, int)
            return number * 2

        invoked = make_function(client, other, fn_id="other", event="other")

        async def steps(ctx: inngest.Context) -> list[object]:
            async def one() -> int:
                return 1

            async def two() -> int:
                return 2

            first = await ctx.step.run("one", one)
            await ctx.step.sleep("nap", datetime.timedelta(seconds=1))
            both = await ctx.group.parallel(
                (
                    lambda: ctx.step.run("p-one", one),
                    lambda: ctx.step.run("p-two", two),
                )
            )
            event = inngest.Event(name="unheard", data={})
            sent.append(await ctx.step.send_event("send", event))
            doubled = await ctx.step.invoke("invoke", function=invoked, data={"n": 21})
            return [first, list(both), doubled]

        functions = [make_function(client, steps), invoked]
        app = InngestConnectMiddleware(bare_app, client=client, functions=functions)
        async with lifespan(app):
            await off_loop(gateway.wait_for_worker)
            result = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert result.status == "completed", result.error
            assert result.output == [1, [1, 2], 42]
        assert sent
        await close_http(client)

    run(main)


def test_retries_until_a_function_succeeds(gateway: LocalGateway) -> None:
    attempts = []

    async def flaky(ctx: inngest.Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 2:
            raise ValueError("not yet")
        return "at last"

    async def main() -> None:
        async with worker(gateway, flaky):
            result = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert (result.status, result.output) == ("completed", "at last")

    run(main)
    assert attempts == [0, 1, 2]


def test_a_non_retriable_error_fails_at_once_and_its_handler_runs(
    gateway: LocalGateway,
) -> None:
    client = make_client(gateway)
    handled = threading.Event()

    async def failing(ctx: inngest.Context) -> None:
        raise inngest.NonRetriableError("never")

    async def on_failure(ctx: inngest.Context) -> None:
        handled.set()

    async def main() -> None:
        function = make_function(client, failing, on_failure=on_failure)
        app = InngestConnectMiddleware(bare_app, client=client, functions=[function])
        async with lifespan(app):
            await off_loop(gateway.wait_for_worker)
            result = await off_loop(gateway.wait_for_run, gateway.send("test"))
            assert (result.status, result.attempts) == ("failed", 1)
            assert result.error["message"] == "never"
            assert await off_loop(handled.wait, 10)

    run(main)


def test_async_functions_run_on_the_apps_loop_and_others_in_threads(
    gateway: LocalGateway,
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    threads: list[threading.Thread] = []

    async def on_loop(ctx: inngest.Context) -> None:
        loops.append(asyncio.get_running_loop())

    def in_thread(ctx: inngest.ContextSync) -> None:
        threads.append(threading.current_thread())

    async def main() -> None:
        async with worker(gateway, on_loop, in_thread):
            for name in ("on_loop", "in_thread"):
                delivery = gateway.request(f"app-{name}")
                await off_loop(delivery.wait_for_reply)
            assert loops == [asyncio.get_running_loop()]

    run(main)
    assert threads[0] is not threading.main_thread()


def test_a_context_variable_lives_no_longer_than_its_run(
    gateway: LocalGateway,
) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="-")

    def enter(name: str) -> str:
        before = tenant.get()
        tenant.set(name)
        return before

    async def in_loop(ctx: inngest.Context) -> str:
        return enter("in_loop")

    def in_thread(ctx: inngest.ContextSync) -> str:
        return enter("in_thread")

    async def main() -> None:
        # One thread, so that the second run is in that of the first.
        async with worker(gateway, in_loop, in_thread, max_worker_concurrency=1):
            for _ in range(2):
                for name in ("in_loop", "in_thread"):
                    delivery = gateway.request(f"app-{name}")
                    reply = await off_loop(delivery.wait_for_reply)
                    assert json.loads(reply.body) == "-"
        assert tenant.get() == "-"

    run(main)


def test_synchronous_functions_run_side_by_side(gateway: LocalGateway) -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(ctx: inngest.ContextSync) -> None:
        together.wait()

    async def main() -> None:
        async with worker(gateway, meet):
            for delivery in [gateway.request("app-meet") for _ in range(3)]:
                reply = await off_loop(delivery.wait_for_reply)
                assert reply.status == wire.DONE

    run(main)


def test_several_apps_share_a_connection(gateway: LocalGateway) -> None:
    async def main() -> None:
        apps = []
        for name in ("one", "two"):
            client = make_client(gateway, name)
            apps.append((client, [make_function(client, noop)]))
        app = InngestConnectMiddleware(bare_app, apps=apps)
        async with lifespan(app):
            connection = await off_loop(gateway.wait_for_worker)
            assert connection.apps == ["one", "two"]
            for name in ("one", "two"):
                delivery = gateway.request(f"{name}-function")
                assert (await off_loop(delivery.wait_for_reply)).status == wire.DONE

    run(main)


def test_fetches_events_and_steps_that_the_server_left_out() -> None:
    async def steps(ctx: inngest.Context) -> object:
        async def one() -> int:
            return 1

        return [await ctx.step.run("one", one), ctx.event.data["big"]]

    async def main() -> None:
        with LocalGateway(use_api=True) as gateway:
            async with worker(gateway, steps):
                event_id = gateway.send("test", {"big": "payload"})
                result = await off_loop(gateway.wait_for_run, event_id)
                assert result.output == [1, "payload"], result.error

    run(main)


def test_a_reply_that_is_too_large_becomes_an_error_that_is_not_retried(
    gateway: LocalGateway,
) -> None:
    async def large(ctx: inngest.Context) -> str:
        return "x" * (8 * 1024 * 1024)

    async def main() -> None:
        async with worker(gateway, large, noop):
            delivery = gateway.request("app-large")
            reply = await off_loop(delivery.wait_for_reply)
            assert (reply.status, reply.no_retry) == (wire.ERROR, True)
            assert b"app-large" in reply.body
            delivery = gateway.request("app-noop")
            assert (await off_loop(delivery.wait_for_reply)).status == wire.DONE
            assert len(gateway.connections) == 1

    run(main)


def test_takes_requests_larger_than_the_gateway_reads() -> None:
    event = {"name": "test", "data": {"x": "y" * 4_700_000}, "id": "e", "ts": 1}
    payload = {
        "ctx": {
            "attempt": 0,
            "disable_immediate_execution": False,
            "run_id": "run",
            "stack": {"stack": []},
        },
        "event": event,
        "events": [event],
        "steps": {},
        "use_api": False,
    }

    async def measure(ctx: inngest.Context) -> int:
        return len(str(ctx.event.data["x"]))

    async def main() -> None:
        # Not in a hurry: a busy machine answers no heartbeat while it sends so much.
        with LocalGateway() as gateway:
            async with worker(gateway, measure):
                delivery = gateway.request("app-measure", payload)
                reply = await off_loop(delivery.wait_for_reply, 20)
                assert json.loads(reply.body) == 4_700_000

    run(main)


def test_a_cancellation_that_leaks_is_a_failure(gateway: LocalGateway) -> None:
    async def leak(ctx: inngest.Context) -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(task.cancel)
        await task

    async def main() -> None:
        async with worker(gateway, leak):
            delivery = gateway.request("app-leak")
            reply = await off_loop(delivery.wait_for_reply)
        assert (reply.status, reply.no_retry) == (wire.ERROR, False)
        assert json.loads(reply.body) == {
            "code": "unknown",
            "message": "what the function awaited was cancelled",
            "name": "CancelledError",
        }

    run(main)


def test_runs_no_more_at_once_than_it_said(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold, max_worker_concurrency=2):
            connection = gateway.ready_connections[0]
            assert connection.hello.max_worker_concurrency == 2
            # More than a real gateway would send.
            deliveries = [gateway.request("app-hold") for _ in range(4)]
            for delivery in deliveries:
                await off_loop(delivery.wait_for_ack)
            await off_loop(gateway.wait_until, lambda: deliveries[3].extensions > 1)
            assert gate.calls == 2
            gate.opened.set()
            for delivery in deliveries:
                await off_loop(delivery.wait_for_reply)
            assert gate.calls == 4

    run(main)


def test_many_runs_at_once_leave_the_apps_loop_turns_of_its_own(
    gateway: LocalGateway,
) -> None:
    gate, hold = gated()
    many = 5 * RUNS_PER_TURN
    started: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            started.append(gate.calls)
            if gate.calls < many:
                loop.call_soon(turn)

        async with worker(gateway, hold):
            deliveries = [gateway.request("app-hold") for _ in range(many)]
            # On the loop, which finds all of them when it goes on.
            for delivery in deliveries:
                delivery.wait_for_ack()
            turn()
            gate.opened.set()
            for delivery in deliveries:
                await off_loop(delivery.wait_for_reply)
        at_once = [after - before for before, after in itertools.pairwise(started)]
        assert 0 < max(at_once) <= RUNS_PER_TURN

    run(main)


# Requests that are not run


def test_a_request_that_comes_again_is_acknowledged_but_not_run_again(
    gateway: LocalGateway,
) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            # The function may start before the gateway has read the acknowledgement.
            await off_loop(delivery.wait_for_ack)
            await off_loop(gate.entered.wait, 5)
            gateway.request("app-hold", request_id=delivery.request_id)
            await off_loop(gateway.wait_until, lambda: len(delivery.acked_by) == 2)
            gate.opened.set()
            await off_loop(delivery.wait_for_reply)
            # And once it is done.
            gateway.request("app-hold", request_id=delivery.request_id)
            await off_loop(gateway.wait_until, lambda: len(delivery.acked_by) == 3)
            assert gate.calls == 1

    run(main)


def test_a_request_for_an_unknown_app_is_not_acknowledged(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with worker(gateway, noop):
            unknown = [gateway.request("other-function") for _ in range(3)]
            known = gateway.request("app-noop")
            await off_loop(known.wait_for_reply)
            assert not any(delivery.acked_by for delivery in unknown)

    run(main)
    messages = [record.message for record in caplog.records]
    assert sum("unknown app 'other'" in message for message in messages) == 1


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([b"\xff\xff\xff"] * 100, id="garbage"),
        pytest.param([b""], id="empty"),
        pytest.param(["text", "", "\u2028"] * 30, id="text"),
        pytest.param(
            [wire.ConnectMessage(kind=99).SerializeToString()],
            id="unknown kind",
        ),
        pytest.param(
            [
                wire.ConnectMessage(kind=kind, payload=b"\xff").SerializeToString()
                for kind in list(wire.Kind)
                if kind != wire.GATEWAY_CLOSING
            ],
            id="malformed payloads",
        ),
        pytest.param(
            [
                wire.ConnectMessage(
                    kind=wire.GATEWAY_EXECUTOR_REQUEST, payload=b"\x0a\x10abc"
                ).SerializeToString()
            ]
            * 100,
            id="truncated",
        ),
    ],
)
def test_a_burst_of_malformed_frames_is_survived(
    gateway: LocalGateway, frames: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with worker(gateway, noop):
            await off_loop(gateway.send_raw, *frames)
            delivery = gateway.request("app-noop")
            assert (await off_loop(delivery.wait_for_reply)).status == wire.DONE
            assert len(gateway.connections) == 1

    run(main)
    warnings = [r for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) <= len(set(frames))


# Handshake


def test_waits_for_its_handlers_before_it_takes_requests(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with worker(gateway, noop, instance_id="me"):
            connection = gateway.connections[0]
            hello = connection.hello
            assert hello.worker_manual_readiness_ack
            assert hello.instance_id == "me"
            assert hello.sdk_language == "py"
            assert hello.framework == "connect"
            assert json.loads(hello.capabilities) == {
                "trust_probe": "v1",
                "connect": "v1",
            }
            assert hello.system_attributes is not None
            assert hello.system_attributes.cpu_cores > 0
            assert hello.system_attributes.mem_bytes > 0
            assert hello.started_at is not None
            assert abs(hello.started_at.seconds - time.time()) < 60
            (start,) = gateway.requests("start")
            assert "authorization" not in start.headers

    run(main)


def make_cloud_app(
    monkeypatch: pytest.MonkeyPatch, gateway: LocalGateway, key: str, fallback: str = ""
) -> InngestConnectMiddleware:
    for name, value in gateway.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("INNGEST_SIGNING_KEY", key)
    if fallback:
        monkeypatch.setenv("INNGEST_SIGNING_KEY_FALLBACK", fallback)
    client = inngest.Inngest(app_id="app")
    return InngestConnectMiddleware(
        bare_app, client=client, functions=[make_function(client, noop)]
    )


def test_sends_the_hashed_signing_key_and_never_the_raw_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    async def main() -> None:
        with LocalGateway(signing_keys=(KEY,)) as gateway:
            async with lifespan(make_cloud_app(monkeypatch, gateway, KEY)):
                await off_loop(gateway.wait_for_worker)
                (start,) = gateway.requests("start")
                assert start.headers["authorization"].startswith("Bearer signkey-test-")
                secret = KEY.removeprefix("signkey-test-")
                hashed = start.headers["authorization"].rpartition("-")[2]
                assert secret not in str(start.headers)
                auth = gateway.connections[0].hello.auth_data
                assert auth is not None
                for hidden in (secret, hashed, auth.session_token):
                    assert hidden not in caplog.text

    run(main)


def test_tries_the_fallback_key_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with LocalGateway(signing_keys=(KEY,)) as gateway:
            app = make_cloud_app(monkeypatch, gateway, OTHER_KEY, KEY)
            async with lifespan(app):
                await off_loop(gateway.wait_for_worker)
                codes = [seen.code for seen in gateway.requests("start")]
                assert codes == [401, 200]

    run(main)


def test_a_wrong_key_is_reported_as_such(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with LocalGateway(signing_keys=(KEY,)) as gateway:
            async with lifespan(make_cloud_app(monkeypatch, gateway, OTHER_KEY)):
                await until(lambda: "check INNGEST_SIGNING_KEY" in caplog.text)

    run(main)


@pytest.mark.parametrize("fault", ["ready_first", "sync_failed", "garbage_ready"])
def test_a_handshake_that_goes_wrong_is_tried_again(
    gateway: LocalGateway, fault: Any
) -> None:
    gateway.faults.handshake = fault

    async def main() -> None:
        client = make_client(gateway)
        function = make_function(client, noop)
        app = InngestConnectMiddleware(bare_app, client=client, functions=[function])
        async with lifespan(app):
            await off_loop(
                gateway.wait_until,
                lambda: gateway.connections and gateway.connections[0].closed_at,
            )
            gateway.faults.reset()
            if fault != "sync_failed":  # which is left to a person, and so slow
                await off_loop(gateway.wait_for_worker)

    run(main)


def test_connects_to_the_gateway_it_is_told_to(gateway: LocalGateway) -> None:
    with LocalGateway() as elsewhere:
        # The API of one, the gateway of the other, which knows no such connection.
        url = f"ws://127.0.0.1:{elsewhere.gateway_port}"

        async def main() -> None:
            client = make_client(gateway)
            app = InngestConnectMiddleware(
                bare_app,
                client=client,
                functions=[make_function(client, noop)],
                gateway_url=url,
            )
            async with lifespan(app):
                await off_loop(elsewhere.wait_until, lambda: elsewhere.connections)
            assert not gateway.connections

        run(main)


# Start-up


def test_start_up_does_not_wait_for_inngest(gateway: LocalGateway) -> None:
    gateway.api_down()

    async def main() -> None:
        client = make_client(gateway)
        function = make_function(client, noop)
        app = InngestConnectMiddleware(bare_app, client=client, functions=[function])
        async with lifespan(app):
            assert not gateway.connections
            await off_loop(gateway.api_up)
            await off_loop(gateway.wait_for_worker)

    run(main)


def test_start_up_waits_where_it_is_told_to(gateway: LocalGateway) -> None:
    async def main() -> None:
        client = make_client(gateway)
        app = InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[make_function(client, noop)],
            startup_timeout=10,
        )
        async with lifespan(app):
            # The gateway has said READY; the answer may still be on its way.
            assert gateway.connections[0].hello.apps

    run(main)


def test_start_up_fails_with_the_reason(gateway: LocalGateway) -> None:
    gateway.faults.start = 500

    async def main() -> None:
        client = make_client(gateway)
        app = InngestConnectMiddleware(
            bare_app,
            client=client,
            functions=[make_function(client, noop)],
            startup_timeout=3.0,
        )
        with pytest.raises(StartupFailed, match="the start API answered 500"):
            async with lifespan(app):
                pass

    run(main)

    def thread_is_gone() -> bool:
        return "inngest-connect" not in {each.name for each in threading.enumerate()}

    run(lambda: until(thread_is_gone))


# Heartbeats and leases


def test_heartbeats_and_leases_at_the_servers_intervals(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(gateway.wait_until, lambda: delivery.extensions >= 5)
            assert delivery.nacks == 0
            beats = len(gateway.received("WORKER_HEARTBEAT"))
            # 0.2 s and 0.1 s: about half as many heartbeats, whatever the machine.
            assert beats <= delivery.extensions
            gate.opened.set()
            await off_loop(delivery.wait_for_reply)

    run(main)


@pytest.mark.parametrize("interval", ["500ms", "0.25s", "1m0s", "", "nonsense"])
def test_intervals_as_go_prints_them(interval: str) -> None:
    async def main() -> None:
        with LocalGateway(
            heartbeat_interval=interval, extend_lease_interval=interval
        ) as gateway:
            async with worker(gateway, noop):
                await off_loop(
                    gateway.wait_until, lambda: gateway.received("WORKER_HEARTBEAT")
                )

    run(main)


def test_a_lease_that_is_taken_back_is_not_asked_for_again(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            gateway.faults.nack_leases = True
            await off_loop(gateway.wait_until, lambda: delivery.nacks)
            # On a busy machine it asks once more before it reads the answer.
            await until(lambda: "took back the lease" in caplog.text)
            nacks = delivery.nacks
            beats = len(gateway.received("WORKER_HEARTBEAT"))
            await off_loop(
                gateway.wait_until,
                lambda: len(gateway.received("WORKER_HEARTBEAT")) > beats + 2,
            )
            assert delivery.nacks == nacks
            gate.opened.set()
            assert (await off_loop(delivery.wait_for_reply)).status == wire.DONE

    run(main)


def test_status_reports_where_the_server_asks_for_them() -> None:
    gate, hold = gated()

    async def main() -> None:
        with LocalGateway(status_interval="100ms") as gateway:
            async with worker(gateway, hold):
                delivery = gateway.request("app-hold")

                def reported() -> bool:
                    messages = [s.message for s in gateway.received("WORKER_STATUS")]
                    return any(
                        isinstance(m, wire.WorkerStatusData)
                        and list(m.in_flight_request_ids) == [delivery.request_id]
                        for m in messages
                    )

                await off_loop(gateway.wait_until, reported)
                gate.opened.set()
                await off_loop(delivery.wait_for_reply)

    run(main)


# Losing connections


def lose_by_close(gateway: LocalGateway) -> None:
    gateway.close(1011, "connect_internal_error")


def lose_by_abort(gateway: LocalGateway) -> None:
    gateway.drop()


def lose_by_invalid_frame(gateway: LocalGateway) -> None:
    for connection in gateway.ready_connections:
        # A frame with reserved bits set, which no extension stands for.
        gateway._server.call(connection.socket.transport.write, b"\xf2\x01x")


def lose_by_silence(gateway: LocalGateway) -> None:
    for connection in gateway.ready_connections:
        connection.faults.mute = {"GATEWAY_HEARTBEAT"}


def lose_by_half_open_link(gateway: LocalGateway) -> None:
    gateway.freeze()


@pytest.mark.parametrize(
    "lose",
    [
        lose_by_close,
        lose_by_abort,
        lose_by_invalid_frame,
        lose_by_silence,
        lose_by_half_open_link,
    ],
)
def test_a_lost_connection_is_replaced_and_leases_move_over(
    gateway: LocalGateway, lose: Any
) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            await off_loop(lose, gateway)
            await off_loop(
                gateway.wait_until,
                lambda: (
                    len(gateway.connections) > 1
                    and gateway.connections[-1].phase == "ready"
                ),
            )
            new = gateway.connections[-1]
            await off_loop(gateway.wait_until, lambda: delivery.connection is new)
            gate.opened.set()
            reply = await off_loop(delivery.wait_for_reply)
            assert reply.status == wire.DONE
            assert gate.calls == 1

    run(main)


def test_a_lease_outlives_a_gateway_that_is_slow_to_take_the_worker() -> None:
    gate, hold = gated()

    async def main() -> None:
        with LocalGateway(
            heartbeat_interval="1s", extend_lease_interval="200ms"
        ) as gateway:
            async with worker(gateway, hold):
                delivery = gateway.request("app-hold")
                await off_loop(delivery.wait_for_ack)
                # It grants extensions, and answers none before it has come to it.
                gateway.faults.hold = {"WORKER_READY"}
                await off_loop(gateway.drop)

                def beats() -> bool:
                    beats = gateway.received("WORKER_HEARTBEAT")
                    new = [s for s in beats if s.connection is not delivery.acked_by[0]]
                    return len(new) >= 2

                await off_loop(gateway.wait_until, beats)
                gateway.faults.hold = set()
                new = gateway.connections[-1]
                before = delivery.extensions
                await off_loop(
                    gateway.wait_until,
                    lambda: delivery.connection is new and delivery.extensions > before,
                )
                gate.opened.set()
                await off_loop(delivery.wait_for_reply)
                assert delivery.nacks == 0
                assert gate.calls == 1

    run(main)


def test_a_reply_without_a_connection_is_flushed(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            gateway.faults.upgrade = 503
            await off_loop(gateway.drop)
            gate.opened.set()
            await off_loop(delivery.wait_for_reply)
            await off_loop(gateway.wait_until, lambda: gateway.requests("flush"))
            (flush,) = gateway.requests("flush")
            assert flush.id == delivery.request_id
            assert flush.headers["content-type"] == "application/protobuf"
            gateway.faults.reset()

    run(main)


@pytest.mark.parametrize("answer", [403, 413])
def test_a_reply_that_something_refuses_on_its_way_to_the_api_takes_another_way(
    answer: int, gateway: LocalGateway
) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            gateway.faults.upgrade = 503
            gateway.faults.flush = answer
            await off_loop(gateway.drop)
            gate.opened.set()
            await off_loop(gateway.wait_until, lambda: gateway.requests("flush"))
            assert delivery.reply is None
            gateway.faults.upgrade = None
            reply = await off_loop(delivery.wait_for_reply, 30)
            assert reply.status == wire.DONE

    run(main)


def test_a_reply_that_is_not_acknowledged_is_flushed(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with worker(gateway, noop):
            gateway.faults.mute = {"WORKER_REPLY_ACK"}
            delivery = gateway.request("app-noop")
            await off_loop(
                gateway.wait_until, lambda: gateway.requests("flush"), timeout=15
            )
            assert delivery.replies == 2

    run(main)


def test_a_reply_that_is_acknowledged_is_not_flushed(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with worker(gateway, noop):
            delivery = gateway.request("app-noop")
            await off_loop(delivery.wait_for_reply)
            await off_loop(gateway.drop)
            await off_loop(
                gateway.wait_until, lambda: len(gateway.requests("start")) == 2
            )
            await off_loop(gateway.wait_for_worker)
        assert not gateway.requests("flush")

    run(main)


def test_a_flush_is_tried_until_it_succeeds(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            gateway.faults.upgrade = gateway.faults.flush = 503
            await off_loop(gateway.drop)
            gate.opened.set()
            await off_loop(
                gateway.wait_until, lambda: len(gateway.requests("flush")) >= 2
            )
            gateway.faults.reset()
            await off_loop(delivery.wait_for_reply)

    run(main)


def test_is_back_after_an_outage_of_the_api(gateway: LocalGateway) -> None:
    async def main() -> None:
        async with worker(gateway, noop):
            await off_loop(gateway.api_down)
            await off_loop(gateway.drop)
            connection = gateway.connections[-1]
            await off_loop(gateway.wait_until, lambda: connection.closed_at)
            await off_loop(gateway.api_up)
            await off_loop(gateway.wait_for_worker, timeout=30)

    run(main)


@pytest.mark.parametrize("fault", [429, 500, "garbage"])
def test_survives_an_api_that_answers_nonsense(
    gateway: LocalGateway, fault: Any
) -> None:
    gateway.faults.start = fault

    async def main() -> None:
        client = make_client(gateway)
        function = make_function(client, noop)
        app = InngestConnectMiddleware(bare_app, client=client, functions=[function])
        async with lifespan(app):
            await off_loop(gateway.wait_until, lambda: gateway.requests("start"))
            gateway.faults.reset()
            await off_loop(gateway.wait_for_worker)

    run(main)


# Drains


def test_a_drain_moves_everything_to_a_new_connection(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
            for drained in range(2):
                old = gateway.connections[drained]
                await off_loop(gateway.drain, old)
                await off_loop(gateway.wait_until, lambda old=old: old.closed_at)
                new = gateway.connections[drained + 1]
                assert new.ready_at is not None
                assert old.closed_at is not None
                assert new.ready_at < old.closed_at
                assert (old.close_code, old.closed_by) == (1000, "worker")
                start = gateway.requests("start")[drained + 1].message
                assert isinstance(start, wire.StartRequest)
                assert list(start.exclude_gateways) == [old.group]
                await off_loop(
                    gateway.wait_until, lambda new=new: delivery.connection is new
                )
            gate.opened.set()
            await off_loop(delivery.wait_for_reply)
            replies = gateway.received("WORKER_REPLY")
            assert [seen.connection for seen in replies] == [gateway.connections[2]]
            assert delivery.nacks == 0
            assert gate.calls == 1

    run(main)


def test_a_drain_during_shutdown_keeps_leases_alive(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)

            async def drain_while_stopping() -> None:
                await off_loop(
                    gateway.wait_until, lambda: gateway.received("WORKER_PAUSE")
                )
                await off_loop(gateway.drain)
                await off_loop(
                    gateway.wait_until, lambda: len(gateway.connections) == 2
                )
                new = gateway.connections[1]
                await off_loop(gateway.wait_until, lambda: delivery.connection is new)
                gate.opened.set()

            draining = asyncio.ensure_future(drain_while_stopping())
        await draining
        assert delivery.reply is not None
        new = gateway.connections[1]
        # It never asked for requests.
        assert not gateway.received("WORKER_READY", new)
        assert gateway.received("WORKER_PAUSE", new)
        await off_loop(gateway.wait_until, lambda: new.closed_at)
        assert (new.close_code, new.close_reason) == (1000, "WORKER_SHUTDOWN")

    run(main)


# Shutdown


def test_shutdown_lets_functions_finish(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)

            async def open_later() -> None:
                await off_loop(
                    gateway.wait_until, lambda: gateway.received("WORKER_PAUSE")
                )
                beats, extensions = (
                    len(gateway.received("WORKER_HEARTBEAT")),
                    delivery.extensions,
                )
                await off_loop(
                    gateway.wait_until,
                    lambda: (
                        len(gateway.received("WORKER_HEARTBEAT")) > beats + 1
                        and delivery.extensions > extensions + 1
                    ),
                )
                gate.opened.set()

            opening = asyncio.ensure_future(open_later())
        await opening
        assert delivery.reply is not None
        assert delivery.reply.status == wire.DONE
        (connection,) = gateway.connections
        await off_loop(gateway.wait_until, lambda: connection.closed_at)
        assert connection.closed_by == "worker"
        assert connection.close_code == 1000
        assert connection.close_reason == "WORKER_SHUTDOWN"
        kinds = [s.kind for s in gateway.seen if s.event == "received"]
        assert kinds.index("WORKER_PAUSE") < kinds.index("WORKER_REPLY")

    run(main)


def test_shutdown_ends_where_a_handler_of_the_log_hangs(gateway: LocalGateway) -> None:
    hangs, released = threading.Event(), threading.Event()

    class Hanging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            hangs.set()
            released.wait(60)

    logger, handler = logging.getLogger("inngest_connect_asgi"), Hanging(logging.INFO)
    before = logger.level

    async def main() -> None:
        async with worker(gateway, noop):
            await off_loop(hangs.wait, 10)
            since = time.monotonic()
        assert time.monotonic() - since < 30

    # Not the gateway's log, which goes by the same handler.
    testing = logging.getLogger("inngest_connect_asgi.testing")
    testing.propagate = False
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        run(main)
    finally:
        released.set()
        logger.removeHandler(handler)
        logger.setLevel(before)
        testing.propagate = True


def test_a_level_that_is_none_does_not_keep_it_from_connecting(
    gateway: LocalGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody should have written setLevel.
    monkeypatch.setattr(logging.getLogger("websockets"), "level", "WARNING")

    async def main() -> None:
        async with worker(gateway, noop):
            done = await off_loop(gateway.run, "test")
        assert done.status == "completed"

    run(main)


def test_shutdown_without_a_connection(gateway: LocalGateway) -> None:
    gateway.faults.start = "hang"

    async def main() -> None:
        client = make_client(gateway)
        function = make_function(client, noop)
        app = InngestConnectMiddleware(bare_app, client=client, functions=[function])
        async with lifespan(app):
            pass

    run(main)


def test_shutdown_gives_up_what_takes_too_long(
    gateway: LocalGateway, caplog: pytest.LogCaptureFixture
) -> None:
    _, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold, shutdown_timeout=0.3):
            delivery = gateway.request("app-hold")
            await off_loop(delivery.wait_for_ack)
        assert delivery.reply is None

    run(main)
    (record,) = (r for r in caplog.records if "before a run finished" in r.message)
    assert vars(record)["function_id"] == "app-hold"


def test_requests_after_the_pause_are_not_taken(gateway: LocalGateway) -> None:
    gate, hold = gated()

    async def main() -> None:
        async with worker(gateway, hold):
            first = gateway.request("app-hold")
            await off_loop(first.wait_for_ack)
            connection = gateway.ready_connections[0]

            async def send_late() -> None:
                await off_loop(
                    gateway.wait_until, lambda: gateway.received("WORKER_PAUSE")
                )
                late = gateway.request("app-hold", connection=connection)
                # What comes after it has been dealt with, so it has been, too.
                again = gateway.request(
                    "app-hold", request_id=first.request_id, connection=connection
                )
                await off_loop(
                    gateway.wait_until,
                    lambda: len(gateway.received("WORKER_HEARTBEAT")) > 3,
                )
                assert not late.acked_by
                assert again is first
                gate.opened.set()

            sending = asyncio.ensure_future(send_late())
        await sending

    run(main)
    assert gate.calls == 1
