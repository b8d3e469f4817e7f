"""Whether an app has routes of its own where the health endpoints answer.

Asked of what can be asked: Starlette's routes, and with them FastAPI's, Litestar's,
Quart's, and Django's URLs, through whatever is wrapped around them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from starlette.routing import Match

__all__ = ["shadowed"]

MAX_DEPTH = 50
"""Apps inside of one another, in a row."""

NO_SUCH = "inngest-connect-no-such-route"


def shadowed(app: object, base: str, paths: Iterable[str]) -> list[str]:
    """The ``paths`` that the app has a route of its own for, as far as can be seen.

    Raises nothing. A route that takes whatever comes is not meant: a single-page
    app has one.

    Args:
        base: What all of ``paths`` begin with, as ``/healthz``.
    """
    found = []
    decoy = base.rpartition("/")[0] + f"/{NO_SUCH}"
    for path in paths:
        for layer in _layers(app):
            try:
                own = _route(layer, path)
                if own is None:
                    continue
                if own != _route(layer, decoy + path.removeprefix(base)):
                    found.append(path)
            except Exception:
                # An app may be whatever can be called.
                continue
            break
    return found


def _layers(app: object) -> Iterator[object]:
    """The app, and what it is wrapped around."""
    for _ in range(MAX_DEPTH):
        if app is None:
            return
        yield app
        try:
            app = _inner(app)
        except Exception:
            return


def _inner(app: object) -> object:
    mapping = getattr(app, "application_mapping", None)
    if isinstance(mapping, Mapping):
        return mapping.get("http")
    # The last one is of a method, as Quart's app is one.
    for name in ("app", "application", "__wrapped__", "__self__"):
        if callable(inner := getattr(app, name, None)):
            return inner
    return None


def _route(app: object, path: str) -> object:
    """What identifies the route for ``path``, or ``None``."""
    if "django" in sys.modules:
        from django.core.handlers.base import BaseHandler

        if isinstance(app, BaseHandler):
            return _django_route(path)
    if (url_map := getattr(app, "url_map", None)) is not None:
        return _werkzeug_route(url_map, path)
    routes = getattr(app, "routes", None)
    if not isinstance(routes, Iterable):
        return None
    known = list(routes)
    if known and not any(hasattr(route, "matches") for route in known):
        # Litestar's: only those without parameters can be told from the rest.
        return next((route for route in known if route.path == path), None)
    return _starlette_route(known, path)


def _werkzeug_route(url_map: Any, path: str) -> object:
    urls = url_map.bind("localhost")
    methods = urls.allowed_methods(path)
    return frozenset(urls.match(path, method=each)[0] for each in methods) or None


def _django_route(path: str) -> object:
    from django.urls import Resolver404, resolve

    try:
        match = resolve(path)
    except Resolver404:
        return None
    return match.route, match.func


def _starlette_route(routes: Iterable[Any], path: str) -> object:
    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "root_path": "",
        "headers": [],
    }
    while True:
        for route in routes:
            match, child = route.matches(scope)
            if match is not Match.NONE:
                break
        else:
            return None
        inner = getattr(route, "routes", None)
        if not inner:
            return route
        routes = inner
        scope |= child
