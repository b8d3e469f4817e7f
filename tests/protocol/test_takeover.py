"""The core in virtual time: after a crash."""

from __future__ import annotations

from inngest_connect_asgi.messages import (
    Adopt,
    Delivered,
    Delivery,
    Result,
    Undelivered,
    Withdrawn,
)
from inngest_connect_asgi.protocol.wire import connect as wire
from inngest_connect_asgi.state import State

from ..simulation import DONE, Simulation, lease
from .twice import FIRST, SECOND, replies


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


def test_a_new_runtime_knows_a_result_that_came_meanwhile() -> None:
    sim = Simulation(requests=[lease("r")], results=[Result(lease("r"), DONE)])
    assert not sim.core.leases.running
    assert list(sim.flushes) == ["r"]


def test_a_new_runtime_extends_the_lease_of_a_reply_that_it_has_to_deliver() -> None:
    sim = Simulation(results=[Result(lease("r"), DONE)])
    link = sim.connect()
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    sim.advance(0)
    sim.write(link)
    assert sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    sim.flush_answer("r")
    assert not len(sim.core.leases)


def test_a_new_runtime_runs_nothing_that_is_over() -> None:
    sim = Simulation(settled=[Delivery("over", "lease-0")])
    link = sim.connect()
    sim.request(link, "over")
    sim.write(link)
    assert not sim.requested
    assert sim.sent(wire.WORKER_REQUEST_ACK)


def test_a_reply_outlives_a_crash_though_an_older_delivery_still_runs() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation(requests=[older], results=[Result(newer, DONE)])
    assert Delivered(SECOND) not in sim.told
    assert list(sim.flushes) == ["job"]
    link = sim.connect()
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    assert not replies(sim)
    assert Delivered(FIRST) in sim.told


def test_of_two_replies_that_outlive_a_crash_the_newer_counts() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation(results=[Result(newer, DONE), Result(older, DONE)])
    assert Delivered(FIRST) in sim.told
    assert [flush.delivery for flush in sim.flushes.values()] == [SECOND]


def test_no_lease_is_held_for_what_is_older_than_a_reply_that_was_delivered() -> None:
    older = lease("job", "lease-1")
    sim = Simulation(requests=[older], settled=[SECOND])
    link = sim.connect()
    sim.advance(0.001)
    sim.write(link)
    assert not sim.sent(wire.WORKER_REQUEST_EXTEND_LEASE)
    sim.result("job", lease_id="lease-1")
    sim.write(link)
    assert not replies(sim)


def test_what_is_older_than_the_request_that_runs_after_a_crash_is_dropped() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation(requests=[newer], results=[Result(older, DONE)])
    assert Delivered(FIRST) in sim.told
    assert not sim.flushes
    link = sim.connect()
    sim.result("job", lease_id="lease-2")
    sim.write(link)
    assert len(replies(sim)) == 1


def test_what_was_about_to_be_acknowledged_is_withdrawn_and_named() -> None:
    offered = lease("job")
    sim = Simulation(offered=[offered])
    assert Withdrawn(offered.delivery) in sim.told
    assert any("as it took a request" in text for text in sim.logs)


def test_the_last_state_is_gone_on_from() -> None:
    sim = Simulation(state=State("ready", requests_done=3, leases_lost=2))
    assert sim.state.connection == "reconnecting"
    assert (sim.state.requests_done, sim.state.leases_lost) == (3, 2)


def test_what_a_runtime_leaves_is_gone_on_with() -> None:
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "own")
    sim.write(link)
    sim.receive(link, wire.GATEWAY_HEARTBEAT)
    adopted = Adopt(
        requests=(lease("runs"), lease("over"), lease("ended")),
        offered=(lease("offered"),),
        undelivered=(Undelivered(lease("late"), 4), Undelivered(lease("over"), 4)),
        settled=(lease("over").delivery,),
        state=State("stopped", requests_done=3, reconnects=2, malformed=1),
    )
    # Its reply has overtaken what is said of it.
    sim.running[lease("ended").delivery] = lease("ended")
    sim.result("ended")
    sim.results[lease("late").delivery] = Result(lease("late"), DONE)
    sim.offered.add(lease("offered").delivery)
    sim.do(sim.core.adopt(adopted, sim.now))
    sim.advance(0.3)
    sim.write(link)
    running = {each.request_id for each in sim.core.leases.running}
    assert running == {"own", "runs"}
    assert {each.lease.request_id for each in sim.core.leases} == {
        *running,
        "ended",
        "late",
    }
    assert Withdrawn(lease("offered").delivery) in sim.told
    assert list(sim.flushes) == ["late"]
    assert (sim.state.requests_done, sim.state.reconnects) == (4, 2)
    assert sim.state.malformed == 1
    sim.do(sim.core.adopt(Adopt(), sim.now))


def test_what_has_come_anew_since_is_newer_than_what_is_left() -> None:
    older, newer = lease("job", "lease-1"), lease("job", "lease-2")
    sim = Simulation()
    link = sim.connect(heartbeat="1h")
    sim.request(link, "job", lease_id="lease-2")
    sim.write(link)
    sim.do(sim.core.adopt(Adopt(requests=(older,)), sim.now))
    assert [held.lease.delivery for held in sim.core.leases] == [newer.delivery]
    assert sim.core.deliveries.was_superseded(older.delivery)
