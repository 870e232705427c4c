"""Counts of the server, for Prometheus. Labels are routes, methods and statuses: never a key, a session or a text."""

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
    "evicted": ("sessions_evicted", "Sessions that were dropped to keep the limits of the store."),
    "rejected": ("compactions_rejected", "Compactions that lost too much of the newest steps to be taken over."),
    "failures": ("compaction_failures", "Compactions that failed and left their session as it was."),
}
_TOKENS = ("prompt", "cached", "completion")
KEYS = 1_000
"""Keys whose metrics are remembered; on loopback anyone can make up keys."""


class Metrics:
    """The metrics of each key, one registry each: what one key does is not shown to another."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._of: dict[str, KeyMetrics] = {}  # the one used last stands last

    def of(self, key: str) -> KeyMetrics:
        """Returns the metrics of a key; those of the key used longest ago are forgotten."""
        metrics = self._of.pop(key, None) or KeyMetrics(self._host, key)
        self._of[key] = metrics
        if len(self._of) > KEYS:
            del self._of[next(iter(self._of))]
        return metrics


class KeyMetrics:
    """The metrics of one key of one server, so that two servers in a process do not mix."""

    def __init__(self, host: Host, key: str) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "holdfast_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self.seconds = self._histogram("holdfast_request_seconds", "From a request to the end of its answer.")
        self.first_token = self._histogram("holdfast_first_token_seconds", "From an ask to the first piece of it.")
        self.under_way = Gauge("holdfast_requests_under_way", "Requests being answered.", registry=self.registry)
        self.registry.register(_HostCollector(host, key))

    def _histogram(self, name: str, help_: str) -> Histogram:
        return Histogram(name, help_, registry=self.registry, buckets=_SECONDS)

    def render(self) -> bytes:
        """Returns the text that Prometheus reads. Asks the host, so it may block."""
        return generate_latest(self.registry)


class _HostCollector(Collector):
    """The counts that the host has of one key, read when they are asked for."""

    def __init__(self, host: Host, key: str) -> None:
        self.host, self.key = host, key

    def describe(self) -> Iterator[Metric]:
        return iter(())  # without this, registering would ask a host that may not be ready

    def collect(self) -> Iterator[Metric]:
        stats = self.host.stats(self.key)
        for field, (name, help_) in _GAUGES.items():
            yield GaugeMetricFamily(f"holdfast_{name}", help_, getattr(stats, field))
        for field, (name, help_) in _COUNTERS.items():
            yield CounterMetricFamily(f"holdfast_{name}", help_, getattr(stats, field))
        tokens = CounterMetricFamily("holdfast_tokens", "Tokens; of prompts, some were cached.", labels=("kind",))
        for kind in _TOKENS:
            tokens.add_metric((kind,), getattr(stats, f"{kind}_tokens"))
        yield tokens
