"""Exceptions that reach the user."""

from __future__ import annotations

__all__ = ["ConfigurationError", "ConnectError", "StartupError", "describe", "quoted"]


class ConnectError(Exception):
    """Base of every exception this package raises."""


class ConfigurationError(ConnectError):
    """An option, an environment variable or a client is wrong.

    The message names what is wrong and how to mend it.
    """


class StartupError(ConnectError):
    """No connection was ready within ``startup_timeout``."""


def describe(error: BaseException) -> str:
    """An exception in one line, for a log."""
    try:
        text = str(error)
    except Exception:
        text = "its text could not be made"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def quoted(text: str, limit: int = 200) -> str:
    """Text from the network for a log or a report: quoted, and cut.

    Args:
        limit: Characters of it to show at most.
    """
    return repr(text if len(text) <= limit else f"{text[: limit - 1]}…")
