"""Exceptions that reach the user."""

from __future__ import annotations

__all__ = ["ConfigurationError", "ConnectError", "StartupError", "describe"]


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
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
