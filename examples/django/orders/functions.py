from __future__ import annotations

from typing import Any

import inngest
from django.db import transaction

from .models import Order

client = inngest.Inngest(app_id="django-shop")


@client.create_function(
    fn_id="fulfil-order",
    trigger=inngest.TriggerEvent(event="shop/order.placed"),
)
def fulfil_order(ctx: inngest.ContextSync) -> str:
    """Two steps that write to the database; it runs in a thread, as views do."""
    order_id = ctx.event.data["order_id"]

    def charge() -> str:
        with transaction.atomic():
            order = Order.objects.select_for_update().get(pk=order_id)
            order.status = "charged"
            order.save()
        return f"charged {order.price}"

    def ship() -> str:
        Order.objects.filter(pk=order_id).update(status="shipped")
        return "shipped"

    ctx.step.run("charge-card", charge)
    return ctx.step.run("ship", ship)


@client.create_function(
    fn_id="count-orders",
    trigger=inngest.TriggerEvent(event="shop/count.requested"),
)
async def count_orders(ctx: inngest.Context) -> dict[str, int]:
    """An async function uses the ORM's async methods."""
    shipped = await Order.objects.filter(status="shipped").acount()
    return {"orders": await Order.objects.acount(), "shipped": shipped}


functions: list[inngest.Function[Any]] = [fulfil_order, count_orders]
