"""Exceptions that reach the user, and how what went wrong is written down.

Texts from elsewhere, an exception's or the network's, may be long, forge lines of a
log, or repeat a URL with a password in it. Whatever is shown passes through here.
"""

from __future__ import annotations

import re
import traceback

__all__ = [
    "ConfigurationError",
    "ConnectError",
    "StartupError",
    "describe",
    "format_traceback",
    "last_line",
    "one_line",
    "quoted",
    "scrubbed",
]

LIMIT = 500
"""Characters of an exception's text to show."""

WINDOW = 10_000
"""Characters to look at: with room for what is cut out."""

CHAIN = 4
"""Exceptions in a chain of causes to show."""

HIDDEN = "***"

_WORD = re.compile(r"\S+")
_CLOSERS = ")]>}'\",;:."
_HEADER = re.compile(
    r"""((?:proxy-)?authorization["']?\s*[:=,]\s*(?:b?["'])?)
        (?:(basic|bearer|digest)\s+)?[^\s"',;)]+""",
    re.IGNORECASE | re.VERBOSE,
)
_SIGNING_KEY = re.compile(r"(signkey-[a-z0-9]+-)\w+", re.IGNORECASE)


class ConnectError(Exception):
    """Base of every exception this package raises."""


class ConfigurationError(ConnectError):
    """An option, an environment variable or a client is wrong.

    The message names what is wrong and how to mend it.
    """


class StartupError(ConnectError):
    """No connection was ready within ``startup_timeout``."""


def describe(error: BaseException) -> str:
    """An exception and its causes in one line, for a log or a report.

    Without credentials, and never longer than a few hundred characters.
    """
    parts: list[str] = []
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen and len(seen) < CHAIN:
        seen.add(id(cause))
        text, name = _text(cause), type(cause).__name__
        if not parts:
            parts.append(f"{name}: {text}" if text else name)
        elif text and not any(text in part for part in parts):
            parts.append(f"from {name}: {text}")
        cause = _cause_of(cause)
    causes = f" ({', '.join(parts[1:])})" if parts[1:] else ""
    return one_line(parts[0] + causes)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:WINDOW]
    except KeyboardInterrupt:
        raise
    except BaseException:
        return "its text could not be made"


def _cause_of(error: BaseException) -> BaseException | None:
    """The first of a group, or what it was raised from; a class may have anything."""
    try:
        several = getattr(error, "exceptions", None)
        cause: object = error.__cause__
        if isinstance(several, tuple) and several:
            cause = several[0]
    except KeyboardInterrupt:
        raise
    except BaseException:
        return None
    return cause if isinstance(cause, BaseException) else None


def quoted(text: str | bytes, limit: int = 200) -> str:
    """Text from the network for a log or a report: quoted, cut, without credentials.

    Args:
        limit: Characters of it to show at most.
    """
    if isinstance(text, bytes):
        text = text[:WINDOW].decode(errors="backslashreplace")
    shown = scrubbed(text[:WINDOW])
    return repr(shown if len(shown) <= limit else f"{shown[: limit - 1]}…")


def one_line(text: str, limit: int = LIMIT) -> str:
    """Text that is ours in part: without credentials, line ends and control
    characters, and not longer than ``limit`` characters and three dots."""
    shown = scrubbed(text[:WINDOW])
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown[: limit + 1])
    return shown if len(shown) <= limit else shown[:limit] + "..."


def format_traceback(error: BaseException) -> str:
    """A traceback without the credentials of URLs that its messages repeat."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception:
        text = describe(error) + "\n"
    return scrubbed(text)


def last_line(text: str) -> str:
    """What a formatted traceback comes to, as :func:`describe` would show it."""
    lines = text.rstrip().splitlines()
    return one_line(lines[-1].strip()) if lines else ""


def scrubbed(text: str) -> str:
    """``text`` without what its URLs and headers have of credentials.

    User names, passwords and queries of URLs, the values of ``Authorization`` and
    ``Proxy-Authorization``, and signing keys.
    """
    text = _HEADER.sub(_hide_header, text)
    text = _SIGNING_KEY.sub(rf"\1{HIDDEN}", text)
    return _WORD.sub(lambda match: _hide(match[0]), text)


def _hide_header(match: re.Match[str]) -> str:
    scheme = f"{match[2]} " if match[2] else ""
    return f"{match[1]}{scheme}{HIDDEN}"


def _hide(word: str) -> str:
    """A word without the credentials of the URL that it may be or contain."""
    if "@" in word:
        before, slashes, rest = word.partition("//")
        if not slashes:
            before, rest = "", word
        # The last one: a password may have any character in it, even one that would
        # end it in a proper URL.
        user, _, host = rest.rpartition("@")
        if (slashes and "@" in rest) or ":" in user:
            word = f"{before}{slashes}{HIDDEN}@{host}"
    path, mark, query = word.partition("?")
    if mark and query and ("//" in path or "=" in query):
        hidden = query.rstrip(_CLOSERS)
        if hidden:
            word = f"{path}?{HIDDEN}{query[len(hidden) :]}"
    return word
