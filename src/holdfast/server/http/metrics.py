"""What the server counts, for Prometheus. Labels are routes, methods and statuses: never a key, a session or a text."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from holdfast.server.protocol import Host

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_GAUGES = {
    "sessions": ("sessions", "Sessions held, in memory or on disk."),
    "resident": ("sessions_resident", "Sessions in memory."),
    "bytes_held": ("bytes_held", "Bytes of keys and values in memory."),
    "slots_held": ("slots_held", "Slots in memory, of all heads on average."),
}
_COUNTERS = {
    "compactions": ("compactions", "Compactions done."),
    "compaction_seconds": ("compaction_seconds", "Seconds that they took."),
    "failures": ("compaction_failures", "Compactions that failed and left their session as it was."),
}
_TOKENS = ("prompt", "cached", "completion")


class Metrics:
    """One registry for each server, so that two in a process do not mix."""

    def __init__(self, host: Host) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdfast_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = self._histogram("holdfast_request_seconds", "From a request to the end of its answer.")
        self.first_token = self._histogram("holdfast_first_token_seconds", "From an ask to the first piece of it.")
        self.under_way = Gauge("holdfast_requests_under_way", "Requests being answered.", registry=self.registry)
        self.registry.register(_OfHost(host))

    def of(self, key: str) -> Metrics:
        return self

    def _histogram(self, name: str, help_: str) -> Histogram:
        return Histogram(name, help_, registry=self.registry, buckets=_SECONDS)

    def page(self) -> bytes:
        """The text that Prometheus reads. Asks the host, so it may block."""
        return generate_latest(self.registry)


class _OfHost(Collector):
    """What the host counts itself, read when it is asked for."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def describe(self) -> Iterator[Metric]:
        return iter(())  # without this, registering would ask a host that may not be ready

    def collect(self) -> Iterator[Metric]:
        stats = self.host.stats()
        for field, (name, help_) in _GAUGES.items():
            yield GaugeMetricFamily(f"holdfast_{name}", help_, getattr(stats, field))
        for field, (name, help_) in _COUNTERS.items():
            yield CounterMetricFamily(f"holdfast_{name}", help_, getattr(stats, field))
        tokens = CounterMetricFamily("holdfast_tokens", "Tokens; of prompts, some were cached.", labels=("kind",))
        for kind in _TOKENS:
            tokens.add_metric((kind,), getattr(stats, f"{kind}_tokens"))
        yield tokens
