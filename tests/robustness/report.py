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
        self._waits_s: dict[str, list[float]] = defaultdict(list)  # between two leaders
        self._whole_s: dict[str, list[float]] = defaultdict(list)  # from the fault's end until everybody has caught up
        self._totals: Counter[str] = Counter()

    def on_round(self, fault: str, operations: int, locks: int, waits_s: Sequence[float], whole_s: float) -> None:
        self._rounds[fault] += 1
        self._operations[fault] += operations
        self._totals["locks held"] += locks
        self._waits_s[fault] += waits_s
        self._whole_s[fault].append(whole_s)

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
            f"{self._members} members, {self._rounds.total()} rounds (times: median, p99, maximum)",
            f"{'fault':18}{'rounds':>7}{'operations':>12}{'ms without a leader':>24}{'ms until whole':>24}",
        ]
        for fault, count in sorted(self._rounds.items()):
            times = "".join(f"{_figures(seconds[fault]):>24}" for seconds in (self._waits_s, self._whole_s))
            lines.append(f"{fault:18}{count:7}{self._operations[fault]:12}{times}")
        lines += [f"{name:36}{count:9}" for name, count in self._totals.items()]
        lines.append(f"{'acknowledged writes lost':36}{self.lost:9}")
        return "\n".join(lines)


def _figures(seconds: Sequence[float]) -> str:
    """Median, p99 and maximum, in milliseconds."""
    if not seconds:
        return ""
    ordered = sorted(seconds)
    figures = (statistics.median(ordered), ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], ordered[-1])
    return "".join(f"{each * 1000:8.0f}" for each in figures)
