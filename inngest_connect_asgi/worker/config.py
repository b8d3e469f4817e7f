"""The options, their environment variables, and whether they make sense."""

from __future__ import annotations

import math
import os
import platform
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import inngest

from .. import libraries
from ..configuration import Configuration, Probe
from ..errors import ConfigurationError
from ..network import access as network
from ..protocol.urls import gateway_scheme
from . import sdk
from .apps import Apps, runners_of
from .client import is_text
from .outcomes import MAX_BODY_SIZE, VERSION
from .runner import FunctionRunner

__all__ = [
    "DEFAULT_HEALTH_PATH",
    "DEFAULT_SHUTDOWN_TIMEOUT",
    "DEFAULT_WEDGE_TIMEOUT",
    "Isolation",
    "Settings",
    "check_environment",
    "check_gateway_url",
    "check_health_path",
    "is_enabled",
    "settings",
]

DEFAULT_SHUTDOWN_TIMEOUT = 25.0
"""Seconds. With the 2 it takes to disconnect, within Kubernetes' default of 30."""

DEFAULT_HEALTH_PATH = "/healthz"

DEFAULT_WEDGE_TIMEOUT = 300.0
"""Seconds without an answer of the app's event loop that call for a restart."""

ENABLED = "INNGEST_CONNECT_ENABLED"
ISOLATION = "INNGEST_CONNECT_ISOLATION"
GATEWAY_URL = "INNGEST_CONNECT_GATEWAY_URL"
MAX_WORKER_CONCURRENCY = "INNGEST_CONNECT_MAX_WORKER_CONCURRENCY"
THREADS = "INNGEST_THREAD_POOL_MAX_WORKERS"
MAX_CONCURRENCY = 2**31 - 1
"""As a limit it is none; and no field of the protocol takes any number."""

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"


Isolation = Literal["auto", "thread", "interpreter", "process"]


@dataclass(frozen=True)
class Settings:
    """Options that were found to make sense. Durations are in seconds."""

    runners: tuple[FunctionRunner, ...]
    isolation: Isolation
    instance_id: str | None
    max_worker_concurrency: int | None
    gateway_url: str | None = field(repr=False)
    startup_timeout: float | None
    shutdown_timeout: float
    stall_timeout: float | None
    wedge_timeout: float | None
    probe: Probe | None
    reply_buffer_size: int
    outcome_buffer_size: int
    threads: int

    @property
    def function_ids(self) -> frozenset[str]:
        return frozenset().union(*(runner.function_ids for runner in self.runners))

    def configuration(self) -> Configuration:
        """What the runtime needs to know, for the present process.

        Called when the worker starts, not before: what is made at import is
        shared by the processes that a server forks.
        """
        client = self.runners[0].client
        return Configuration(
            apps=tuple(runner.app for runner in self.runners),
            api_origin=client.api_origin,
            instance_id=self.instance_id or _unique_instance_id(),
            sdk_version=VERSION,
            cpu_cores=os.cpu_count() or 1,
            memory=_memory(),
            os=platform.system().lower(),
            environment=client.environment,
            signing_key=client.hashed_signing_key,
            signing_key_fallback=client.hashed_signing_key_fallback,
            gateway_url=self.gateway_url,
            max_worker_concurrency=self.max_worker_concurrency,
            stall_timeout=self.stall_timeout,
            probe=self.probe,
            isolation=self.isolation,
            reply_buffer_size=self.reply_buffer_size,
        )


def is_enabled(option: bool | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether to connect at all: either of option and environment says no."""
    value = environ.get(ENABLED, "").strip().lower()
    if value not in ("", "1", "true", "0", "false"):
        raise ConfigurationError(f"{ENABLED} must be 1 or 0, not {value!r}")
    return option is not False and value not in ("0", "false")


def settings(
    *,
    client: inngest.Inngest | None,
    functions: Sequence[inngest.Function[Any]] | None,
    apps: Apps | None,
    isolation: Isolation | None,
    instance_id: str | None,
    max_worker_concurrency: int | None,
    gateway_url: str | None,
    startup_timeout: float | None,
    shutdown_timeout: float,
    stall_timeout: float | None,
    wedge_timeout: float | None,
    probe: str | None,
    reply_buffer_size: int,
    outcome_buffer_size: int,
    health_path: str | None,
    health_details: bool,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Check the options and fill in those that the environment sets.

    Raises:
        ConfigurationError: Something is wrong; the message names the option.
    """
    sdk.check_version()
    concurrency = _concurrency(max_worker_concurrency, environ)
    threads = _threads(concurrency, environ)
    if instance_id is not None and not (is_text(instance_id) and instance_id.strip()):
        raise ConfigurationError(
            f"instance_id must be a text and not empty, not {instance_id!r}; leave it "
            "out for one that is unique"
        )
    for option, seconds in (
        ("startup_timeout", startup_timeout),
        ("shutdown_timeout", shutdown_timeout),
        ("stall_timeout", stall_timeout),
        ("wedge_timeout", wedge_timeout),
    ):
        if seconds is None and option != "shutdown_timeout":
            continue
        if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
            raise ConfigurationError(
                f"{option} must be a positive number of seconds, not {seconds!r}"
            )
    if not (isinstance(reply_buffer_size, int) and reply_buffer_size >= MAX_BODY_SIZE):
        raise ConfigurationError(
            f"reply_buffer_size must be at least {MAX_BODY_SIZE} bytes, the size "
            f"of the largest reply, not {reply_buffer_size!r}"
        )
    if not isinstance(outcome_buffer_size, int) or outcome_buffer_size < 0:
        raise ConfigurationError(
            "outcome_buffer_size must be a number of bytes, or 0 to remember no "
            f"outcome that was delivered, not {outcome_buffer_size!r}"
        )
    runners = runners_of(client, functions, apps)
    url = check_gateway_url(gateway_url, environ)
    network.check(runners[0].client.api_origin, url, environ)
    return Settings(
        runners=runners,
        isolation=_isolation(isolation, environ),
        instance_id=instance_id,
        max_worker_concurrency=concurrency,
        gateway_url=url,
        startup_timeout=startup_timeout,
        shutdown_timeout=shutdown_timeout,
        stall_timeout=stall_timeout,
        wedge_timeout=wedge_timeout,
        probe=_probe(probe, health_path, health_details, wedge_timeout, environ),
        reply_buffer_size=reply_buffer_size,
        outcome_buffer_size=outcome_buffer_size,
        threads=threads,
    )


def check_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Raise :class:`ConfigurationError` unless every variable makes sense."""
    is_enabled(None, environ)
    _threads(_concurrency(None, environ), environ)
    _isolation(None, environ)
    check_gateway_url(None, environ)


def _concurrency(option: int | None, environ: Mapping[str, str]) -> int | None:
    name, value = "max_worker_concurrency", option
    if option is None:
        name, value = MAX_WORKER_CONCURRENCY, _integer(environ, MAX_WORKER_CONCURRENCY)
    if value is not None and not (isinstance(value, int) and value >= 1):
        raise ConfigurationError(f"{name} must be at least 1, not {value!r}")
    if value is not None and value > MAX_CONCURRENCY:
        raise ConfigurationError(
            f"{name} must be no more than {MAX_CONCURRENCY}, not {value!r}; leave it "
            "out for no limit"
        )
    return value


def _threads(concurrency: int | None, environ: Mapping[str, str]) -> int:
    # The SDK runs sync functions on the event loop at 0 threads. Here they never do.
    threads = _integer(environ, THREADS) or concurrency or _default_threads()
    if threads < 1:
        raise ConfigurationError(f"{THREADS} must not be negative")
    return threads


def _default_threads() -> int:
    """As many as Python's pools have, and with them the SDK's under serve."""
    return min(32, (os.cpu_count() or 1) + 4)


def check_health_path(path: str) -> None:
    """Raise :class:`ConfigurationError` unless ``path`` is one."""
    if (
        not isinstance(path, str)
        or not path.startswith("/")
        or path.endswith("/")
        or "{" in path
    ):
        raise ConfigurationError(
            f"health_path must be a path such as /healthz, not {path!r}"
        )


def _probe(
    address: str | None,
    path: str | None,
    details: bool,
    wedge_timeout: float | None,
    environ: Mapping[str, str],
) -> Probe | None:
    if address is None:
        return None
    host, colon, port = str(address).rpartition(":")
    if not (colon and port.isdecimal() and int(port) < 65536):
        raise ConfigurationError(
            f'probe must be a port such as ":8081", or host:port, not {address!r}'
        )
    if not libraries.is_installed("uvicorn"):
        raise ConfigurationError(
            'probe needs uvicorn: pip install "inngest-connect-asgi[probe]"'
        )
    host = host.removeprefix("[").removesuffix("]")
    return Probe(
        host,
        int(port),
        path or DEFAULT_HEALTH_PATH,
        details,
        wedge_timeout,
        # The figures of the one worker that has the port, among those of all, would
        # only mislead.
        metrics=MULTIPROCESS not in environ
        and libraries.is_installed("prometheus_client"),
    )


def _isolation(option: str | None, environ: Mapping[str, str]) -> Isolation:
    name = "isolation" if option is not None else ISOLATION
    value = option if option is not None else environ.get(ISOLATION, "").strip()
    if value in ("", "auto"):
        return "auto"
    if value == "thread":
        return "thread"
    if value == "process":
        if getattr(sys, "frozen", False) or not os.access(
            sys.executable or "", os.X_OK
        ):
            raise ConfigurationError(
                f'{name}="process" needs a Python interpreter to start, which a frozen '
                'or embedded program does not have; use "thread"'
            )
        return "process"
    if value == "interpreter":
        if not libraries.is_installed("concurrent.interpreters"):
            raise ConfigurationError(
                f'{name}="interpreter" needs Python 3.14 or later, and this is '
                f'{platform.python_version()}; use "process" or "thread"'
            )
        return "interpreter"
    raise ConfigurationError(
        f'{name} must be "auto", "thread", "interpreter" or "process", not {value!r}'
    )


def check_gateway_url(
    option: str | None, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The gateway URL that option or environment names, if it is one."""
    name = "gateway_url" if option is not None else GATEWAY_URL
    url = option if option is not None else environ.get(GATEWAY_URL)
    if not url:
        return None
    try:
        gateway_scheme(url)
    except ValueError as error:
        # Without the URL: there may be a password in it.
        raise ConfigurationError(
            f"{name} must be a URL such as wss://host/path; this one is {error}"
        ) from None
    return url


def _integer(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "").strip()
    if not value:
        return None
    try:
        return int(value)
    except ValueError:
        raise ConfigurationError(
            f"{name} must be a whole number, not {value!r}"
        ) from None


def _unique_instance_id() -> str:
    """Capacity is counted per instance id, so no two processes may share one."""
    return f"{_host_name()}-{os.getpid()}-{secrets.token_hex(4)}"


def _host_name() -> str:
    try:
        # The system's own may be any bytes.
        return socket.gethostname().encode(errors="replace").decode()
    except OSError:
        return "worker"


def _memory() -> int:
    """Bytes of physical memory, or 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0
