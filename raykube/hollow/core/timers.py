"""All timers of a process in one heap. An item has one timer at most; setting it again moves it."""

from heapq import heapify, heappop, heappush
from typing import Protocol

GRID_S = 0.01  # times are rounded up to whole steps, so that what is due together is one batch of writes
STALE_MIN = 1024


class Timed(Protocol):
    """What can have a timer."""

    timer: int  # 0: none


class Timers:
    """`set`, `cancel`, and `due`, which takes out what is due in order of time, then of setting."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._sequence = 0
        self._set = 0

    def __len__(self) -> int:
        return self._set

    def set(self, item: Timed, at: float) -> None:
        """Lets `item` be due at `at`, any clock's seconds, instead of whenever it was."""
        if not item.timer:
            self._set += 1
        self._sequence += 1
        item.timer = self._sequence
        heappush(self._heap, (-(-at // GRID_S) * GRID_S, self._sequence, item))
        if len(self._heap) > STALE_MIN and len(self._heap) > 2 * self._set:
            self._heap = [entry for entry in self._heap if entry[2].timer == entry[1]]
            heapify(self._heap)

    def cancel(self, item: Timed) -> None:
        """Lets `item` never be due."""
        if item.timer:
            item.timer = 0
            self._set -= 1

    def next(self) -> float | None:
        """When the first item is due; None when there is none."""
        heap = self._heap
        while heap and heap[0][2].timer != heap[0][1]:
            heappop(heap)
        return heap[0][0] if heap else None

    def due(self, now: float) -> list[Timed]:
        """Takes out what is due at `now`."""
        found = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            _, sequence, item = heappop(heap)
            if item.timer == sequence:
                item.timer = 0
                self._set -= 1
                found.append(item)
        return found
