"""Prometheus: the figures of every worker, in a registry of ``prometheus_client``.

:func:`register` puts those of the app's process into the app's own registry. The
probe server has a registry of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from .configuration import Configuration
from .integrations import observers as integrations
from .integrations.measures import BUCKETS, MEASURES, OUTCOMES, Feed, Measure, functions
from .libraries import Library

__all__ = ["ConnectMetrics", "register", "scrape"]

LIBRARY = "prometheus-client"
PREFIX = "inngest_connect"


class ConnectMetrics:
    """Instruments that the workers of this process share.

    Where ``PROMETHEUS_MULTIPROC_DIR`` is set they write there, as all others do.

    Raises:
        ValueError: The registry has metrics by these names. It is left as it was.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        self._lock = threading.Lock()
        self._most: dict[str, dict[object, float]] = {}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        for measure in MEASURES:
            name = f"{PREFIX}_{measure.name}"
            labels = [measure.label] if measure.label else []
            if measure.kind == "count":
                counter = Counter(name, measure.help, labels, registry=None)
                self._counters[measure.name] = counter
            else:
                self._gauges[measure.name] = _gauge(name, measure, labels)
            for label in measure.labels if measure.label else ():
                # A series that is not there until it grows hides its first growth.
                self._child(measure, label)
        self._requests = Counter(
            f"{PREFIX}_requests",
            "Requests that are done",
            ["app", "function", "outcome"],
            registry=None,
        )
        self._durations = Histogram(
            f"{PREFIX}_request_duration_seconds",
            "From the request to its outcome",
            ["app", "function"],
            buckets=BUCKETS,
            registry=None,
        )
        self._register()

    def _register(self) -> None:
        """All of them or, if the registry refuses one, none."""
        registered: list[Any] = []
        instruments = *self._counters.values(), *self._gauges.values()
        try:
            for each in (*instruments, self._requests, self._durations):
                self.registry.register(each)
                registered.append(each)
        except BaseException:
            for each in registered:
                self.registry.unregister(each)
            raise

    def begin(self, configuration: Configuration) -> Feed:
        """Measure a worker that starts."""
        for function, app in functions(configuration).items():
            self._durations.labels(app, function)
            for outcome in OUTCOMES:
                self._requests.labels(app, function, outcome)
        return Feed(self, configuration)

    def add(self, measure: Measure, label: str, amount: float) -> None:
        self._child(measure, label).inc(amount)

    def set(self, measure: Measure, worker: object, value: float | None) -> None:
        with self._lock:
            values = self._most.setdefault(measure.name, {})
            if value is None:
                values.pop(worker, None)
            else:
                values[worker] = value
            self._gauges[measure.name].set(max(values.values(), default=0.0))

    def finished(
        self, app: str, function: str, outcome: str, seconds: float | None
    ) -> None:
        self._requests.labels(app, function, outcome).inc()
        if seconds is not None:
            self._durations.labels(app, function).observe(seconds)

    def _child(self, measure: Measure, label: str) -> Counter | Gauge:
        found = self._counters if measure.kind == "count" else self._gauges
        instrument: Counter | Gauge = found[measure.name]
        return instrument.labels(label) if measure.label else instrument


def _gauge(name: str, measure: Measure, labels: list[str]) -> Gauge:
    options: dict[str, Any] = {"unit": "seconds"} if measure.seconds else {}
    mode: Literal["livemax", "livesum"] = "livemax" if measure.seconds else "livesum"
    try:
        return Gauge(
            name,
            measure.help,
            labels,
            registry=None,
            multiprocess_mode=mode,
            **options,
        )
    except ValueError:
        # Before 0.18 there is no such mode; that one remembers dead processes.
        return Gauge(
            name,
            measure.help,
            labels,
            registry=None,
            multiprocess_mode="max",
            **options,
        )


_registered: list[CollectorRegistry] = []


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Have a registry of the app's show every worker that this process starts.

    To be called once, before the app starts; again, it does nothing. A registry that
    refuses the metrics, as one that has others by these names does, goes without; the
    log says so.

    Args:
        registry: The one that the app's own ``/metrics`` serves.
    """
    if any(each is registry for each in _registered):
        return
    _registered.append(registry)
    library = Library(LIBRARY, "metrics")
    metrics = integrations.set_up(library, lambda: ConnectMetrics(registry))
    if metrics is not None:
        integrations.OBSERVERS.append(integrations.Maker(LIBRARY, metrics.begin))


def scrape(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """A registry in the text format that ``accept`` asks for, and its media type."""
    # Not at the top: the oldest versions, which are to be left out, do not have it.
    from prometheus_client.exposition import choose_encoder

    encode, media_type = choose_encoder(accept)
    encoder: Callable[[CollectorRegistry], bytes] = encode
    return encoder(registry), media_type
