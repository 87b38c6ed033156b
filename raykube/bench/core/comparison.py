"""Two runs of one scenario, figure by figure."""

from typing import Any, NamedTuple

Object = dict[str, Any]


class Row(NamedTuple):
    """One figure. `more_is_better` says which way is good."""

    step: str
    figure: str
    before: float
    after: float
    more_is_better: bool

    @property
    def ratio(self) -> float:
        """after / before."""
        return self.after / self.before if self.before else 0.0


def is_comparable(before: Object, after: Object) -> bool:
    """Whether both measured the same thing on the same scale."""
    return all(before.get(name) == after.get(name) for name in ("format", "scenario", "scale"))


def rows(before: Object, after: Object) -> list[Row]:
    """The figures that both have."""
    found = []
    earlier = {step["name"]: step for step in before["steps"]}
    for step in after["steps"]:
        old = earlier.get(step["name"])
        if old is None:
            continue
        figures = _figures(step)
        old_figures = _figures(old)
        for name, (value, more_is_better) in figures.items():
            if name in old_figures:
                found.append(Row(step["name"], name, old_figures[name][0], value, more_is_better))
    return found


def _figures(step: Object) -> dict[str, tuple[float, bool]]:
    found = {f"{kind}/s": (value, True) for kind, value in step["per_s"].items() if value}
    for kind, latencies in step["latency_ms"].items():
        found |= {f"{kind} {name} ms": (value, False) for name, value in latencies.items() if name in ("p50", "p99")}
    found |= {f"CPU µs/pod {name}": (value, False) for name, value in step["cpu_us_per_pod"].items()}
    return found | {f"RSS MiB {name}": (value, False) for name, value in step["rss_mib"].items()}
