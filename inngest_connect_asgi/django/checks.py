"""System checks: what is wrong with a project that wants to run over Connect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils.module_loading import import_string

from ..asgi.middleware import InngestConnectMiddleware
from ..errors import ConfigurationError
from ..worker import sdk

__all__ = ["check_connect"]


def check_connect(app_configs: object, **kwargs: object) -> list[CheckMessage]:
    """Check the ASGI application and the URLs of the project."""
    try:
        application = _asgi_application()
    except ConfigurationError as error:
        return [Error(str(error), id="inngest_connect_asgi.E001")]
    middleware = _find_middleware(application)
    if middleware is None:
        return [
            Warning(
                "No Inngest function runs over Connect: the project has no ASGI "
                "application that InngestConnectMiddleware wraps.",
                hint="Wrap get_asgi_application() in asgi.py, and serve that with an "
                "ASGI server; WSGI has no place for a connection that stays open.",
                id="inngest_connect_asgi.W001",
            )
        ]
    both = sorted(middleware.function_ids & _served())
    if both:
        return [
            Warning(
                "These functions are both served and connected, so Inngest has two "
                f"ways to reach them: {', '.join(both)}.",
                hint="Take inngest.django.serve() out of the URLs, unless this is the "
                "deploy that moves from one to the other.",
                id="inngest_connect_asgi.W002",
            )
        ]
    return []


def _asgi_application() -> object:
    """What an ASGI server would run, as far as the settings tell."""
    name = getattr(settings, "ASGI_APPLICATION", None)
    if name is None:
        package = settings.ROOT_URLCONF.rpartition(".")[0]
        name = f"{package}.asgi.application"
    try:
        return import_string(name)
    except ImportError:
        return None


def _find_middleware(application: object) -> InngestConnectMiddleware | None:
    """The middleware, or what others are wrapped around it."""
    seen = 0
    while application is not None and seen < 20:
        if isinstance(application, InngestConnectMiddleware):
            return application
        application = getattr(application, "app", None) or getattr(
            application, "application", None
        )
        seen += 1
    return None


def _served() -> set[str]:
    """The ids of the functions that ``inngest.django.serve`` serves."""
    ids: set[str] = set()
    for view in _views(get_resolver()):
        ids |= sdk.served_function_ids(view)
    return ids


def _views(resolver: URLResolver) -> Iterator[Any]:
    for pattern in resolver.url_patterns:
        if isinstance(pattern, URLPattern):
            yield pattern.callback
        else:
            yield from _views(pattern)
