"""kube-proxy's metrics under upstream's names, in Prometheus' text form."""

from bisect import bisect_left
from collections.abc import Sequence

SYNC_BUCKETS_S = tuple(0.001 * 2**exponent for exponent in range(15))
PROGRAMMING_BUCKETS_S = (0.25, 0.5, *range(1, 60), *range(60, 121, 5), *range(150, 301, 30))


class Histogram:
    """Counts of observations by upper bound."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str) -> list[str]:
        found, total = [], 0
        for bound, count in zip((*map(_number, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {_number(self._sum)}", f"{name}_count {total}"]


def _number(value: float) -> str:
    return f"{value:.15g}"


class Metrics:
    """All of them."""

    def __init__(self) -> None:
        self.sync_s = Histogram(SYNC_BUCKETS_S)
        self.programming_s = Histogram(PROGRAMMING_BUCKETS_S)
        self.service_changes = 0
        self.endpoint_changes = 0
        self.last_sync = 0.0
        self.last_queued = 0.0
        self.connections = 0
        self.connect_failures = 0
        self.connections_open = 0
        self.frontends = 0
        self.bind_failures = 0
        self.full_s = Histogram(SYNC_BUCKETS_S)
        self.partial_s = Histogram(SYNC_BUCKETS_S)
        self.sync_failures = 0
        self.flows_forgotten = 0

    def on_sync(self, seconds: float, at: float, *, full: bool | None = None) -> None:
        """A sync that took `seconds` ended at `at`; in the kernel it was a full one or one of what had changed."""
        self.sync_s.observe(seconds)
        if full is not None:
            (self.full_s if full else self.partial_s).observe(seconds)
        self.last_sync = at

    def text(self) -> str:
        """The exposition (text/plain; version=0.0.4)."""
        sync = "kubeproxy_sync_proxy_rules"
        lines: list[str] = []
        for name, histogram, about in (
            (f"{sync}_duration_seconds", self.sync_s, "SyncProxyRules latency in seconds"),
            (
                "kubeproxy_sync_full_proxy_rules_duration_seconds",
                self.full_s,
                "SyncProxyRules latency in seconds for full resyncs",
            ),
            (
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                self.partial_s,
                "SyncProxyRules latency in seconds for partial resyncs",
            ),
            (
                "kubeproxy_network_programming_duration_seconds",
                self.programming_s,
                "In Cluster Network Programming Latency in seconds",
            ),
        ):
            lines += [f"# HELP {name} {about}", f"# TYPE {name} histogram", *histogram.lines(name)]
        for name, kind, value, about in (
            (f"{sync}_service_changes_total", "counter", self.service_changes, "Service changes seen"),
            (f"{sync}_endpoint_changes_total", "counter", self.endpoint_changes, "EndpointSlice changes seen"),
            (f"{sync}_last_timestamp_seconds", "gauge", self.last_sync, "The last time rules were synced"),
            (f"{sync}_last_queued_timestamp_seconds", "gauge", self.last_queued, "The last time a sync was queued"),
            (
                f"{sync}_nftables_sync_failures_total",
                "counter",
                self.sync_failures,
                "Transactions that the kernel refused",
            ),
            (
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "counter",
                self.flows_forgotten,
                "Tracked flows deleted because their endpoint was gone",
            ),
            ("raykube_kubeproxy_frontends", "gauge", self.frontends, "Addresses served"),
            ("raykube_kubeproxy_bind_failures_total", "counter", self.bind_failures, "Addresses that cannot be served"),
            ("raykube_kubeproxy_connections_total", "counter", self.connections, "Connections and UDP flows accepted"),
            ("raykube_kubeproxy_connections_open", "gauge", self.connections_open, "Connections and UDP flows open"),
            (
                "raykube_kubeproxy_connect_failures_total",
                "counter",
                self.connect_failures,
                "Endpoints that could not be connected to",
            ),
        ):
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", f"{name} {_number(value)}"]
        return "\n".join(lines) + "\n"
