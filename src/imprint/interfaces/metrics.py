"""What a server does, for Prometheus. No tenant and no adapter is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts of one server."""

    def __init__(self, stats: Callable[[], dict[str, float]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Stats(stats))
        self.requests = Counter(
            "imprint_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "imprint_http_seconds",
            "Seconds from a request to the end of its answer.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_token = Histogram(
            "imprint_first_token_seconds",
            "Seconds from a request to the first token of its answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self.registry)


class _Stats(Collector):
    """What the host counts, read when it is asked for."""

    def __init__(self, stats: Callable[[], dict[str, float]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        for name, value in self._stats().items():
            told = name.replace("_", " ").capitalize() + "."
            if name.endswith("_total"):
                yield CounterMetricFamily(f"imprint_{name.removesuffix('_total')}", told, value=value)
            else:
                yield GaugeMetricFamily(f"imprint_{name}", told, value=value)

    def describe(self) -> Iterator[Metric]:
        return iter(())
