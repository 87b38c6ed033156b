"""The DNS server's metrics under CoreDNS' names, in Prometheus' text form."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from raykube.dns.core.wire import RCODE_NAMES, TYPE_NAMES

BUCKETS_S = tuple(0.00025 * 2**exponent for exponent in range(16))  # CoreDNS' for requests
Labels = tuple[tuple[str, str], ...]


def _number(value: float) -> str:
    return f"{value:.15g}"


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    text = ",".join(f'{name}="{value}"' for name, value in labels)
    return f"{{{text}}}" if text else ""


class Histogram:
    """Counts of observations by upper bound."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BUCKETS_S) + 1)
        self._sum = 0.0

    def observe(self, value_s: float) -> None:
        self._counts[bisect_left(BUCKETS_S, value_s)] += 1
        self._sum += value_s

    def lines(self, name: str, labels: Labels) -> list[str]:
        found, total = [], 0
        for bound, count in zip((*map(_number, BUCKETS_S), "+Inf"), self._counts, strict=True):
            total += count
            found.append(f"{name}_bucket{_labels((*labels, ('le', bound)))} {total}")
        return [*found, f"{name}_sum{_labels(labels)} {_number(self._sum)}", f"{name}_count{_labels(labels)} {total}"]


class Metrics:
    """All of them."""

    def __init__(self, zone: str) -> None:
        self._zone = zone.removesuffix(".") + "."
        self.requests: Counter[tuple[bool, int, bool]] = Counter()  # (TCP, type, of the zone)
        self.responses: Counter[tuple[int, bool]] = Counter()  # (rcode, of the zone)
        self.local_s = Histogram()
        self.forwarded_s = Histogram()
        self.upstream_s: dict[str, Histogram] = {}
        self.upstream_answers: Counter[tuple[str, int]] = Counter()  # (server, rcode)
        self.upstream_failures: Counter[str] = Counter()
        self.cache_hits = 0
        self.cache_misses = 0
        self.cache_entries = 0
        self.rejected = 0
        self.dropped = 0
        self.tcp_connections = 0

    def on_upstream(self, server: str, rcode: int, took_s: float) -> None:
        self.upstream_answers[server, rcode] += 1
        histogram = self.upstream_s.get(server)
        if histogram is None:
            histogram = self.upstream_s[server] = Histogram()
        histogram.observe(took_s)

    def text(self) -> str:
        """The exposition (text/plain; version=0.0.4)."""
        zones = {True: self._zone, False: "."}
        requests: Counter[Labels] = Counter()
        for (tcp, kind, local), count in self.requests.items():
            proto, name = "tcp" if tcp else "udp", TYPE_NAMES.get(kind, "other")
            requests[("proto", proto), ("type", name), ("zone", zones[local])] += count
        responses: dict[Labels, float] = {
            (("rcode", _rcode(rcode)), ("zone", zones[local])): count
            for (rcode, local), count in self.responses.items()
        }
        answers: dict[Labels, float] = {
            (("rcode", _rcode(rcode)), ("to", server)): count
            for (server, rcode), count in self.upstream_answers.items()
        }
        failures: dict[Labels, float] = {(("to", server),): count for server, count in self.upstream_failures.items()}
        durations: dict[Labels, Histogram] = {
            (("zone", self._zone),): self.local_s,
            (("zone", "."),): self.forwarded_s,
        }
        upstream: dict[Labels, Histogram] = {
            (("to", server),): histogram for server, histogram in self.upstream_s.items()
        }
        rejects = "Queries refused because as many as may be waited for upstream."
        return "".join(
            (
                _family("coredns_dns_requests_total", "counter", "Requests per protocol, type and zone.", requests),
                _family("coredns_dns_responses_total", "counter", "Answers per response code and zone.", responses),
                _histograms("coredns_dns_request_duration_seconds", "Time each request took.", durations),
                _family("coredns_cache_hits_total", "counter", "Answers that were remembered.", {(): self.cache_hits}),
                _family("coredns_cache_misses_total", "counter", "Answers that were not.", {(): self.cache_misses}),
                _family("coredns_cache_entries", "gauge", "Answers remembered now.", {(): self.cache_entries}),
                _family("coredns_forward_responses_total", "counter", "Answers of upstream servers.", answers),
                _histograms("coredns_proxy_request_duration_seconds", "Time upstream servers took.", upstream),
                _family(
                    "coredns_proxy_healthcheck_failures_total", "counter", "Upstream requests without answer.", failures
                ),
                _family("coredns_forward_max_concurrent_rejects_total", "counter", rejects, {(): self.rejected}),
                _family("raykube_dns_dropped_total", "counter", "Answers the socket did not take.", {(): self.dropped}),
                _family("raykube_dns_tcp_connections", "gauge", "TCP connections open.", {(): self.tcp_connections}),
            )
        )


def _rcode(number: int) -> str:
    return RCODE_NAMES.get(number, str(number))


def _family(name: str, kind: str, about: str, values: Mapping[Labels, float]) -> str:
    """Nothing for a family without values."""
    rows = [f"{name}{_labels(labels)} {_number(value)}" for labels, value in sorted(values.items())]
    return _exposed(name, kind, about, rows)


def _histograms(name: str, about: str, values: Mapping[Labels, Histogram]) -> str:
    rows = [line for labels, histogram in sorted(values.items(), key=_first) for line in histogram.lines(name, labels)]
    return _exposed(name, "histogram", about, rows)


def _first(item: tuple[Labels, Histogram]) -> Labels:
    return item[0]


def _exposed(name: str, kind: str, about: str, rows: list[str]) -> str:
    if not rows:
        return ""
    return f"# HELP {name} {about}\n# TYPE {name} {kind}\n" + "".join(f"{row}\n" for row in rows)
