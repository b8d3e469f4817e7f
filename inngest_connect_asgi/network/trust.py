"""Whom TLS trusts: one context for all that goes into the network."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress

from ..errors import ConfigurationError, describe
from ..libraries import version

__all__ = [
    "CERT_DIR",
    "CERT_FILE",
    "certifi_file",
    "check",
    "description",
    "inject_truststore",
    "make_context",
    "truststore_is_injected",
    "use_certifi_file",
]

CERT_FILE = "SSL_CERT_FILE"
CERT_DIR = "SSL_CERT_DIR"

_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")
"""The names by which OpenSSL finds a certificate in a directory."""

_certifi_file: str | None = None


def make_context(environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
    """Load the authorities; takes some hundredths of a second.

    Those that ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` name. Where neither does, those
    of the system's store and of certifi: either may lack what the other has.

    Raises:
        ConfigurationError: A variable names what can't be loaded.
    """
    file, directory = environ.get(CERT_FILE) or None, environ.get(CERT_DIR) or None
    _check_directory(directory, alone=file is None)
    try:
        # With both None, what OpenSSL was built with: the system's.
        context = ssl.create_default_context(cafile=file, capath=directory)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise _unusable(file, error) from None
    if file is None and directory is None and not truststore_is_injected():
        _load_what_is_hidden(context)
        certificates = certifi_file()
        if certificates is not None:
            # A package without its data: the system's store is loaded.
            with suppress(OSError):
                context.load_verify_locations(cafile=certificates)
    # For either library: httpx would set it on the context of both.
    context.set_alpn_protocols(["http/1.1"])
    return context


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`ConfigurationError` if what the environment names is unusable."""
    if environ.get(CERT_FILE) or environ.get(CERT_DIR):
        make_context(environ)


def description(environ: Mapping[str, str] = os.environ) -> str:
    """Who is trusted, for a person."""
    named = [f"{v}={environ[v]}" for v in (CERT_FILE, CERT_DIR) if environ.get(v)]
    if truststore_is_injected():
        named.insert(0, f"truststore {version('truststore')}")
    elif not named:
        paths = ssl.get_default_verify_paths()
        where = [
            path
            for path in (paths.openssl_cafile, paths.openssl_capath)
            if os.path.exists(path)
        ]
        store = f" ({', '.join(where)})" if where else ", which has no place here"
        named = [f"the system's store{store}"]
        if certifi_file() is not None:
            named.append(f"certifi {version('certifi')}")
    if environ.get("OPENSSL_CONF"):
        named.append(f"OPENSSL_CONF={environ['OPENSSL_CONF']}")
    return "; ".join(named)


def _load_what_is_hidden(context: ssl.SSLContext) -> None:
    """Load the system's store where a variable is set, and empty.

    OpenSSL takes that for the name of a file, which is not there.
    """
    paths = ssl.get_default_verify_paths()
    with suppress(OSError):
        if os.environ.get(CERT_FILE) == "":
            context.load_verify_locations(cafile=paths.openssl_cafile)
    with suppress(OSError):
        if os.environ.get(CERT_DIR) == "":
            context.load_verify_locations(capath=paths.openssl_capath)


def truststore_is_injected() -> bool:
    """Whether the app has called ``truststore.inject_into_ssl()``."""
    return ssl.SSLContext.__module__.partition(".")[0] == "truststore"


def inject_truststore() -> str | None:
    """Do in this process as the app has done in its own.

    Returns:
        Why it can't be done, or ``None``.
    """
    try:
        import truststore

        truststore.inject_into_ssl()
    except Exception as error:
        return describe(error)
    return None


def _check_directory(value: str | None, *, alone: bool) -> None:
    if value is None:
        return
    found = [each for each in value.split(os.pathsep) if os.path.isdir(each)]
    if not found:
        raise ConfigurationError(
            f"{CERT_DIR} names no directory that is there: {value}; mend it, "
            "or unset it"
        )
    if not alone:
        return
    try:
        names = [name for each in found for name in os.listdir(each)]
    except OSError as error:
        raise ConfigurationError(
            f"{CERT_DIR} names a directory that can't be read: {describe(error)}"
        ) from None
    if not any(_HASHED.fullmatch(name) for name in names):
        raise ConfigurationError(
            f"{CERT_DIR} names a directory without a certificate that OpenSSL would "
            f"find: {value}; give the files their names with openssl rehash"
        )


def _unusable(file: str | None, error: Exception) -> ConfigurationError:
    if file is None:
        return ConfigurationError(
            f"{CERT_DIR} names what can't be loaded: {describe(error)}"
        )
    if not os.path.exists(file):
        why = "which is not there"
    elif isinstance(error, ssl.SSLError):
        why = "which has no certificates in PEM"
    else:
        why = f"which can't be read ({describe(error)})"
    return ConfigurationError(f"{CERT_FILE} names {file}, {why}; mend it, or unset it")


def certifi_file() -> str | None:
    """The file of certifi's authorities, if there is one: an app may have put another
    in its place."""
    if _certifi_file is not None:
        return _certifi_file
    try:
        import certifi

        return certifi.where()
    except Exception:
        return None


def use_certifi_file(path: str | None) -> None:
    """Have this process take certifi's authorities from where the app's finds them."""
    global _certifi_file
    _certifi_file = path
