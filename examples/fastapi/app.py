"""A small shop: orders are taken over HTTP and fulfilled by Inngest.

Against Inngest's dev server:

    npx inngest-cli@latest dev
    INNGEST_DEV=1 uvicorn app:app

Against Inngest Cloud:

    INNGEST_SIGNING_KEY=… INNGEST_EVENT_KEY=… uvicorn app:app
"""

from __future__ import annotations

import time

import inngest
from fastapi import FastAPI
from pydantic import BaseModel

from inngest_connect_asgi import InngestConnectMiddleware

client = inngest.Inngest(app_id="shop")


class Order(BaseModel):
    item: str
    price: float


@client.create_function(
    fn_id="fulfil-order",
    trigger=inngest.TriggerEvent(event="shop/order.placed"),
)
async def fulfil_order(ctx: inngest.Context) -> str:
    """Two steps: each runs once, however often the function is tried again."""

    async def charge() -> str:
        return f"charged {ctx.event.data['price']} for {ctx.event.data['item']}"

    async def send_receipt() -> str:
        return f"sent a receipt: {charged}"

    charged = await ctx.step.run("charge-card", charge)
    return await ctx.step.run("send-receipt", send_receipt)


@client.create_function(
    fn_id="build-report",
    trigger=inngest.TriggerEvent(event="shop/report.requested"),
)
async def build_report(ctx: inngest.Context) -> int:
    """Computes for as long as it is told to, and never lets go of the event loop.

    It should not: a ``def`` function would run in a thread. But people write this,
    and the worker must live through it.
    """
    seconds = float(str(ctx.event.data["seconds"]))
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
    return rounds


@client.create_function(
    fn_id="train-model",
    trigger=inngest.TriggerEvent(event="shop/training.requested"),
)
def train_model(ctx: inngest.ContextSync) -> int:
    """One long call into native code, which keeps every Python thread waiting.

    So do some regular expressions, and much of what data frames are made for.
    Heartbeats outlive it with ``INNGEST_CONNECT_ISOLATION=process``.
    """
    return sum(range(int(str(ctx.event.data["size"]))))


app = FastAPI()
app.add_middleware(
    InngestConnectMiddleware,
    client=client,
    functions=[fulfil_order, build_report, train_model],
)


@app.get("/")
async def index() -> dict[str, str]:
    return {"shop": "open"}


@app.post("/orders", status_code=202)
async def place_order(order: Order) -> dict[str, list[str]]:
    event = inngest.Event(name="shop/order.placed", data=order.model_dump())
    return {"event_ids": await client.send(event)}


@app.post("/reports", status_code=202)
async def request_report(seconds: float) -> dict[str, list[str]]:
    event = inngest.Event(name="shop/report.requested", data={"seconds": seconds})
    return {"event_ids": await client.send(event)}


@app.post("/trainings", status_code=202)
async def request_training(size: int) -> dict[str, list[str]]:
    event = inngest.Event(name="shop/training.requested", data={"size": size})
    return {"event_ids": await client.send(event)}
