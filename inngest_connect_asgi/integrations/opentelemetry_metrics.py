"""OpenTelemetry: the figures of every worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from ..libraries import version
from .measures import BUCKETS, MEASURES, Feed, Measure
from .observers import Maker
from .opentelemetry import NAME, SYSTEM, is_set

__all__ = ["makers"]


def makers() -> list[Maker]:
    """One that feeds the provider, if there is one."""
    if not is_set(metrics.get_meter_provider()):
        return []
    return [
        Maker(
            "opentelemetry-api",
            lambda configuration: Feed(_instruments(), configuration),
        )
    ]


class _Instruments:
    def __init__(self, provider: metrics.MeterProvider) -> None:
        meter = provider.get_meter(NAME, version("inngest-connect-asgi"))
        self._most: dict[str, dict[object, float]] = {}
        self._changes: dict[str, metrics.Counter | metrics.UpDownCounter] = {}
        for measure in MEASURES:
            name = f"inngest.connect.{measure.name}"
            unit = "s" if measure.seconds else "1"
            if measure.kind == "count":
                self._changes[measure.name] = meter.create_counter(
                    name, unit, measure.help
                )
            elif measure.kind == "sum":
                self._changes[measure.name] = meter.create_up_down_counter(
                    name, unit, measure.help
                )
            else:
                self._most[measure.name] = {}
                callback = self._observe(measure)
                meter.create_observable_gauge(name, [callback], unit, measure.help)
        self._duration = _duration(meter)

    def _observe(
        self, measure: Measure
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            values = list(self._most[measure.name].values())
            return [Observation(max(values))] if values else []

        return observe

    def add(self, measure: Measure, label: str, amount: float) -> None:
        attributes = {measure.label: label} if measure.label else {}
        self._changes[measure.name].add(amount, attributes)

    def set(self, measure: Measure, worker: object, value: float | None) -> None:
        if value is None:
            self._most[measure.name].pop(worker, None)
        else:
            self._most[measure.name][worker] = value

    def finished(
        self, app: str, function: str, outcome: str, seconds: float | None
    ) -> None:
        if seconds is not None:
            attributes = {
                **SYSTEM,
                "messaging.destination.name": function,
                "messaging.consumer.group.name": app,
                "inngest.outcome": outcome,
            }
            self._duration.record(seconds, attributes)


def _duration(meter: Meter) -> Histogram:
    name, unit, help = "messaging.process.duration", "s", "How long requests took"
    try:
        return meter.create_histogram(
            name, unit, help, explicit_bucket_boundaries_advisory=BUCKETS
        )
    except TypeError:
        # Before 1.30 it has no such argument, and the provider's own buckets.
        return meter.create_histogram(name, unit, help)


_made: list[tuple[object, _Instruments]] = []


def _instruments() -> _Instruments:
    """One set for every provider: a process has one, but a test may have more."""
    provider = metrics.get_meter_provider()
    # Not in a dictionary: it may have no hash, and compare as it likes.
    for made_for, instruments in _made:
        if made_for is provider:
            return instruments
    made = _Instruments(provider)
    _made.append((provider, made))
    return made
