"""When pods were created, bound and ready, as one watcher saw it; and the figures that follow from it.

All times are the watcher's. A pod counts for the step in which it was created.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

PERCENTILES = (50, 90, 99, 100)


@dataclass(slots=True)
class Life:
    """One pod. Seconds of the watcher's clock; 0: not yet."""

    step: str
    node: str = ""
    created_at: float = 0.0
    bound_at: float = 0.0
    ready_at: float = 0.0
    is_ready: bool = False
    is_leaving: bool = False  # being deleted


@dataclass(slots=True)
class Timeline:
    """All pods there are, and those there were. `present` is by uid."""

    lost_nodes: frozenset[str] = frozenset()  # pods on them do not count as running
    present: dict[str, Life] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)  # in the order of creation
    gone_at: list[float] = field(default_factory=list)
    _ready: dict[str, int] = field(default_factory=dict)  # by step; those not leaving, not on lost nodes
    _bound: dict[str, int] = field(default_factory=dict)

    def on_pod(self, uid: str, step: str, node: str, ready: bool, leaving: bool, now: float) -> None:
        """A pod as it is now."""
        life = self.present.get(uid)
        if life is None:
            life = self.present[uid] = Life(step, created_at=now)
            self.lives.append(life)
        else:
            self._count(life, -1)
        life.node = node
        if node and not life.bound_at:
            life.bound_at = now
        if ready and not life.ready_at:
            life.ready_at = now
        life.is_ready, life.is_leaving = ready, leaving
        self._count(life, 1)

    def on_gone(self, uid: str, now: float) -> None:
        """A pod is no more."""
        life = self.present.pop(uid, None)
        if life is not None:
            self._count(life, -1)
            self.gone_at.append(now)

    def lose(self, nodes: Iterable[str]) -> None:
        """Nodes fell silent."""
        for life in self.present.values():
            self._count(life, -1)
        self.lost_nodes = self.lost_nodes.union(nodes)
        for life in self.present.values():
            self._count(life, 1)

    def _count(self, life: Life, change: int) -> None:
        if life.is_leaving or (life.node and life.node in self.lost_nodes):
            return
        if life.is_ready:
            self._ready[life.step] = self._ready.get(life.step, 0) + change
        if life.node:
            self._bound[life.step] = self._bound.get(life.step, 0) + change

    def running(self, step: str = "") -> int:
        """Pods that are ready now, of a step or all."""
        return self._ready.get(step, 0) if step else sum(self._ready.values())

    def bound(self, step: str = "") -> int:
        """Pods that are on a node now, of a step or all."""
        return self._bound.get(step, 0) if step else sum(self._bound.values())

    def since(self, first: int) -> "Figures":
        """The figures of the pods from the one with index `first` in `lives` on."""
        lives = self.lives[first:]
        return Figures(
            [life.created_at for life in lives],
            [(life.created_at, life.bound_at) for life in lives if life.bound_at],
            [(life.created_at, life.ready_at) for life in lives if life.ready_at],
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """Times of the pods of a step: created; (created, bound); (created, ready)."""

    created: list[float]
    bound: list[tuple[float, float]]
    ready: list[tuple[float, float]]

    def latencies_ms(self, kind: str) -> dict[str, float]:
        """p50, p90, p99 and p100 of created → `kind`; empty when none got so far."""
        pairs = self.bound if kind == "bound" else self.ready
        return latencies_ms([end - begin for begin, end in pairs])

    def per_s(self, kind: str, begin: float) -> float:
        """Pods a second from `begin` to the last of them."""
        ends = (
            self.created if kind == "created" else [end for _, end in (self.bound if kind == "bound" else self.ready)]
        )
        if not ends:
            return 0.0
        return len(ends) / max(max(ends) - begin, 1e-3)

    def series(self, begin: float, end: float, step_s: float) -> dict[str, list[float]]:
        """By intervals of `step_s`: pods a second of each kind, and p50 and p99 of created → ready (or bound)."""
        count = max(1, int((end - begin) / step_s) + 1)
        kinds = {"created": [(at, at) for at in self.created], "bound": self.bound, "running": self.ready}
        found: dict[str, list[float]] = {"t": [round(index * step_s, 3) for index in range(count)]}
        for name, pairs in kinds.items():
            rates = [0.0] * count
            for _, at in pairs:
                rates[min(max(int((at - begin) / step_s), 0), count - 1)] += 1 / step_s
            found[name] = [round(rate, 2) for rate in rates]
        waits: list[list[float]] = [[] for _ in range(count)]
        for start, at in self.ready or self.bound:
            waits[min(max(int((at - begin) / step_s), 0), count - 1)].append(at - start)
        for percent in (50, 99):
            found[f"p{percent}_ms"] = [
                round(percentile(sorted(each), percent) * 1e3, 2) if each else 0.0 for each in waits
            ]
        return found


def latencies_ms(waits_s: Iterable[float]) -> dict[str, float]:
    """p50, p90, p99 and p100 in milliseconds; empty when there are none."""
    ordered = sorted(waits_s)
    if not ordered:
        return {}
    return {f"p{percent}": round(percentile(ordered, percent) * 1e3, 2) for percent in PERCENTILES}


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of a sorted sequence that is not empty."""
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]
