"""What a run found, as a table."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence

from tests.robustness.history import History


class Report:
    """Counts of all rounds of a run."""

    def __init__(self, members: int) -> None:
        self.lost = 0
        self._members = members
        self._rounds: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._waits_s: dict[str, list[float]] = defaultdict(list)
        self._totals: Counter[str] = Counter()

    def on_round(self, fault: str, operations: int, locks: int, waits_s: Sequence[float]) -> None:
        self._rounds[fault] += 1
        self._operations[fault] += operations
        self._totals["locks held"] += locks
        self._waits_s[fault] += waits_s

    def on_audit(self, written: int, sightings: int, events: int, watched: int) -> None:
        self._totals["writes acknowledged"] += written
        self._totals["answers compared with the history"] += sightings
        self._totals["events in the history"] += events
        self._totals["events watched"] += watched

    def on_history(self, history: History) -> None:
        self._totals["calls"] += history.count
        self._totals["unknown outcomes"] += history.unknown
        self._totals["refused or failed reads"] += history.refused

    def __str__(self) -> str:
        lines = [
            f"{self._members} members, {self._rounds.total()} rounds",
            f"{'fault':18}{'rounds':>7}{'operations':>12}   ms without a leader: {'median':>7}{'p99':>7}{'max':>7}",
        ]
        for fault, count in sorted(self._rounds.items()):
            waits = ""
            if self._waits_s[fault]:
                figures = (f"{each * 1000:.0f}" for each in _figures(self._waits_s[fault]))
                waits = "".join(f"{figure:>7}" for figure in figures)
            lines.append(f"{fault:18}{count:7}{self._operations[fault]:12}{'':24}{waits}")
        lines += [f"{name:36}{count:9}" for name, count in self._totals.items()]
        lines.append(f"{'acknowledged writes lost':36}{self.lost:9}")
        return "\n".join(lines)


def _figures(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, p99 and maximum."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1]
