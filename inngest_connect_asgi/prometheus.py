"""Prometheus: the figures of every worker, in a registry of ``prometheus_client``.

:func:`register` puts those of the app's process into the app's own registry. The
probe server has a registry of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from . import integrations
from .measures import BUCKETS, MEASURES, OUTCOMES, Feed, Measure, functions
from .messages import Configuration

__all__ = ["ConnectMetrics", "register", "scrape"]

PREFIX = "inngest_connect"


class ConnectMetrics:
    """Instruments that the workers of this process share.

    Where ``PROMETHEUS_MULTIPROC_DIR`` is set they write there, as all others do.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self._lock = threading.Lock()
        self._most: dict[str, dict[object, float]] = {}
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        for measure in MEASURES:
            name = f"{PREFIX}_{measure.name}"
            labels = [measure.label] if measure.label else []
            if measure.kind == "count":
                counter = Counter(name, measure.help, labels, registry=registry)
                self._counters[measure.name] = counter
            else:
                self._gauges[measure.name] = Gauge(
                    name,
                    measure.help,
                    labels,
                    unit="seconds" if measure.seconds else "",
                    registry=registry,
                    multiprocess_mode="livemax" if measure.seconds else "livesum",
                )
            for label in measure.labels if measure.label else ():
                # A series that is not there until it grows hides its first growth.
                self._child(measure, label)
        self._requests = Counter(
            f"{PREFIX}_requests",
            "Requests that are done",
            ["app", "function", "outcome"],
            registry=registry,
        )
        self._durations = Histogram(
            f"{PREFIX}_request_duration_seconds",
            "From the request to its outcome",
            ["app", "function"],
            buckets=BUCKETS,
            registry=registry,
        )

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


_registered: list[ConnectMetrics] = []


def register(registry: CollectorRegistry = REGISTRY) -> None:
    """Have a registry of the app's show every worker that this process starts.

    To be called once, before the app starts; again, it does nothing.

    Args:
        registry: The one that the app's own ``/metrics`` serves.
    """
    if not any(metrics.registry is registry for metrics in _registered):
        metrics = ConnectMetrics(registry)
        _registered.append(metrics)
        integrations.OBSERVERS.append(metrics.begin)


def scrape(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """A registry in the text format that ``accept`` asks for, and its media type."""
    encode, media_type = choose_encoder(accept)
    encoder: Callable[[CollectorRegistry], bytes] = encode
    return encoder(registry), media_type
