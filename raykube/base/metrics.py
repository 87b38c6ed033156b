"""Counters, gauges and histograms in Prometheus' text format (0.0.4), as values without a clock."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

Labels = tuple[str, ...]


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _render(names: Sequence[str], values: Labels, extra: str = "") -> str:
    pairs = [f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)]
    if extra:
        pairs.append(extra)
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


class Counter:
    """A number per label set; also serves as a gauge."""

    def __init__(self, name: str, help_text: str, labels: Sequence[str] = (), kind: str = "counter") -> None:
        self.name, self.help, self.labels, self.kind = name, help_text, tuple(labels), kind
        self.values: dict[Labels, float] = {}

    def add(self, labels: Labels = (), amount: float = 1.0) -> None:
        self.values[labels] = self.values.get(labels, 0.0) + amount

    def set(self, labels: Labels, value: float) -> None:
        self.values[labels] = value

    def lines(self) -> list[str]:
        return [
            f"{self.name}{_render(self.labels, labels)} {_number(value)}"
            for labels, value in sorted(self.values.items())
        ]


class Histogram:
    """Observations in buckets, per label set."""

    kind = "histogram"

    def __init__(self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name, self.help, self.labels, self.bounds = name, help_text, tuple(labels), tuple(bounds)
        self._cells: dict[Labels, list[float]] = {}  # counts per bucket, the overflow, the sum

    def observe(self, labels: Labels, value: float) -> None:
        cells = self._cells.get(labels)
        if cells is None:
            cells = self._cells[labels] = [0.0] * (len(self.bounds) + 2)
        cells[bisect_left(self.bounds, value)] += 1
        cells[-1] += value

    def lines(self) -> list[str]:
        out = []
        for labels, cells in sorted(self._cells.items()):
            total = 0.0
            for bound, count in zip(self.bounds, cells, strict=False):
                total += count
                le = f'le="{bound:g}"'
                out.append(f"{self.name}_bucket{_render(self.labels, labels, le)} {_number(total)}")
            total += cells[len(self.bounds)]
            infinite = 'le="+Inf"'
            out.append(f"{self.name}_bucket{_render(self.labels, labels, infinite)} {_number(total)}")
            out.append(f"{self.name}_sum{_render(self.labels, labels)} {_number(cells[-1])}")
            out.append(f"{self.name}_count{_render(self.labels, labels)} {_number(total)}")
        return out


class Registry:
    """All metrics of one server."""

    def __init__(self) -> None:
        self._metrics: list[Counter | Histogram] = []
        self._collectors: list[Callable[[], None]] = []

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        metric = Counter(name, help_text, labels)
        self._metrics.append(metric)
        return metric

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        metric = Counter(name, help_text, labels, "gauge")
        self._metrics.append(metric)
        return metric

    def histogram(self, name: str, help_text: str, labels: Sequence[str], bounds: Sequence[float]) -> Histogram:
        metric = Histogram(name, help_text, labels, bounds)
        self._metrics.append(metric)
        return metric

    def include(self, metric: Counter | Histogram) -> None:
        """Shows what somebody else keeps."""
        self._metrics.append(metric)

    def before_render(self, collect: Callable[[], None]) -> None:
        """`collect` runs before each rendering, to set gauges."""
        self._collectors.append(collect)

    def render(self) -> str:
        """The whole exposition."""
        for collect in self._collectors:
            collect()
        out: list[str] = []
        for metric in self._metrics:
            out.append(f"# HELP {metric.name} {metric.help}")
            out.append(f"# TYPE {metric.name} {metric.kind}")
            out.extend(metric.lines())
        return "\n".join(out) + "\n"
