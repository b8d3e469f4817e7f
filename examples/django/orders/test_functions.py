"""The shop's functions over the real wire, with the test database.

``pip install pytest pytest-django``, and ``pytest``. The functions run in threads of
their own, with connections of their own, which see only what is committed: hence
``transaction=True``.
"""

from __future__ import annotations

import pytest

from inngest_connect_asgi.testing import LocalGateway

from .models import Order


@pytest.mark.django_db(transaction=True)
def test_an_order_is_fulfilled(inngest_gateway: LocalGateway) -> None:
    order = Order.objects.create(item="teapot", price=20)
    with inngest_gateway.serving("project.asgi:application"):
        run = inngest_gateway.run("shop/order.placed", {"order_id": order.pk})
    assert run.output == "shipped"
    order.refresh_from_db()
    assert order.status == "shipped"


@pytest.mark.django_db(transaction=True)
def test_orders_are_counted(inngest_gateway: LocalGateway) -> None:
    Order.objects.create(item="teapot", price=20, status="shipped")
    Order.objects.create(item="kettle", price=30)
    with inngest_gateway.serving("project.asgi:application"):
        run = inngest_gateway.run("shop/count.requested")
    assert run.output == {"orders": 2, "shipped": 1}
