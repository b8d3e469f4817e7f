"""The apps of one worker: pairs of a client and its functions, which fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import inngest

from ..errors import ConfigurationError, scrubbed
from .runner import FunctionRunner

__all__ = ["Apps", "runners_of"]

Apps = Sequence[tuple[inngest.Inngest, Sequence["inngest.Function[Any]"]]]


def runners_of(
    client: inngest.Inngest | None,
    functions: Sequence[inngest.Function[Any]] | None,
    apps: Apps | None,
) -> tuple[FunctionRunner, ...]:
    """Those of ``apps``, or of the one app that ``client`` and ``functions`` are.

    Raises:
        ConfigurationError: There is none, or they don't belong to one worker.
    """
    if apps is None:
        if client is None or functions is None:
            raise ConfigurationError(
                "give client= and functions=, or apps=[(client, functions), ...]"
            )
        apps = [(client, functions)]
    elif client is not None or functions is not None:
        raise ConfigurationError("give either client= and functions=, or apps=")
    if not apps:
        raise ConfigurationError("apps is empty: give at least one (client, functions)")
    try:
        pairs = [(client, functions) for client, functions in apps]
    except TypeError:
        raise ConfigurationError(
            "apps must be a list of pairs, as [(client, functions), ...]"
        ) from None
    runners = tuple(FunctionRunner(*pair) for pair in pairs)
    _check_consistent(runners)
    return runners


def _check_consistent(runners: Sequence[FunctionRunner]) -> None:
    """One connection is one account, one environment and one server."""
    first = runners[0].client
    names = set()
    for runner in runners:
        client = runner.client
        if client.app_id in names:
            raise ConfigurationError(
                f"apps has two clients with the app_id {client.app_id!r}; "
                "give both their functions in one"
            )
        names.add(client.app_id)
        for option, mine, other in (
            ("is_production", client.is_production, first.is_production),
            ("api_base_url", client.api_origin, first.api_origin),
            ("env", client.environment, first.environment),
        ):
            if mine != other:
                raise ConfigurationError(
                    f"the clients of the apps {first.app_id!r} and {client.app_id!r} "
                    f"have a different {option}: {_shown(other)} and {_shown(mine)}; "
                    "one worker connects to one environment of one server"
                )
        if (client.hashed_signing_key, client.hashed_signing_key_fallback) != (
            first.hashed_signing_key,
            first.hashed_signing_key_fallback,
        ):
            raise ConfigurationError(
                f"the clients of the apps {first.app_id!r} and {client.app_id!r} "
                "have a different signing_key"
            )


def _shown(value: object) -> str:
    """As in code, but without the password that a URL may have."""
    return scrubbed(repr(value))
