"""The shop's functions over the real wire: ``pip install pytest``, and ``pytest``."""

from __future__ import annotations

from inngest_connect_asgi.testing import LocalGateway


def test_an_order_is_fulfilled(inngest_gateway: LocalGateway) -> None:
    order = {"item": "teapot", "price": 20}
    with inngest_gateway.serving("app:app"):
        run = inngest_gateway.run("shop/order.placed", order)
    assert run.output == "sent a receipt: charged 20 for teapot"
    assert list(run.steps) == ["charge-card", "send-receipt"]


def test_a_report_is_built(inngest_gateway: LocalGateway) -> None:
    with inngest_gateway.serving("app:app"):
        run = inngest_gateway.run("shop/report.requested", {"seconds": 0.1})
    assert run.status == "completed"
