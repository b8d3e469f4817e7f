"""An app that knows nothing of lifespan, as Django's."""

from __future__ import annotations

from fastapi.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from inngest_connect_asgi import InngestConnectMiddleware

from .server_app import client, functions, options


async def without_lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise ValueError(f"no {scope['type']}")
    await PlainTextResponse("here")(scope, receive, send)


plain = InngestConnectMiddleware(
    without_lifespan, client=client, functions=functions, **options
)
