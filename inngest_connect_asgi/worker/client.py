"""What the runtime needs to know of an :class:`inngest.Inngest`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

import inngest

from ..errors import ConfigurationError

__all__ = ["Client", "hash_signing_key", "is_text"]


def hash_signing_key(
    key: str, source: str = "INNGEST_SIGNING_KEY or the client's signing_key"
) -> str:
    """Hash a signing key as the server wants it: in hex, behind the key's prefix.

    Args:
        key: ``signkey-{env}-{hex}``, or hex alone where the server is self-hosted.
        source: Where the key is from, for the message.

    Raises:
        ConfigurationError: The key is malformed. The message does not repeat it.
    """
    key = key.strip()
    digits = re.sub(r"\Asignkey-\w+-", "", key, flags=re.ASCII)
    try:
        secret = bytes.fromhex(digits)
    except ValueError:
        secret = b""
    if not secret:
        raise ConfigurationError(
            f"{source} is malformed: it must look like signkey-prod-, followed by an "
            "even number of hexadecimal digits"
        )
    return key[: len(key) - len(digits)] + hashlib.sha256(secret).hexdigest()


@dataclass(frozen=True)
class Client:
    """What the runtime needs to know of an :class:`inngest.Inngest`."""

    app_id: str
    app_version: str | None
    api_origin: str = field(repr=False)
    environment: str | None
    is_production: bool
    hashed_signing_key: str | None = field(repr=False)
    """``None`` with a dev server, which takes no key."""
    hashed_signing_key_fallback: str | None = field(repr=False)

    @classmethod
    def of(cls, client: inngest.Inngest) -> Client:
        """Read a client.

        Raises:
            ConfigurationError: It has no signing key in production, or a bad one.
        """
        # Since 0.5.18.
        app_version = getattr(client, "app_version", None)
        for option, text in (("app_id", client.app_id), ("app_version", app_version)):
            if text is not None and not is_text(text):
                raise ConfigurationError(
                    f"the client's {option} must be a text, not {text!r}"
                )
        if client.env is not None and not _is_header_value(client.env):
            raise ConfigurationError(
                f"the app {client.app_id!r} has the env {client.env!r}, which is no "
                "name of an environment: set INNGEST_ENV, or the client's env, to one "
                "without control characters, outer blanks and letters beyond ASCII"
            )
        key = fallback = None
        if client.is_production:
            if not client.signing_key:
                raise ConfigurationError(
                    f"the app {client.app_id!r} has no signing key: set "
                    "INNGEST_SIGNING_KEY, or INNGEST_DEV=1 to use a dev server"
                )
            key = hash_signing_key(client.signing_key)
            if client.signing_key_fallback:
                fallback = hash_signing_key(
                    client.signing_key_fallback, "INNGEST_SIGNING_KEY_FALLBACK"
                )
        return cls(
            app_id=client.app_id,
            app_version=app_version,
            api_origin=client.api_origin,
            environment=client.env,
            is_production=client.is_production,
            hashed_signing_key=key,
            hashed_signing_key_fallback=fallback,
        )


def is_text(value: object) -> bool:
    """Whether it is a text that can go over a wire: without half characters."""
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _is_header_value(text: str) -> bool:
    return text.isascii() and text.isprintable() and text == text.strip()
