"""A queue of keys for level-triggered work: a key says which object, never what happened.

Three sets (client-go's): `queue` holds keys to hand out, in order; `dirty` every key that needs work; `processing`
every key that is worked on. A key added while it is processed is only marked dirty and queued again by `done`, so no
key is ever worked on by two workers, and no addition is lost.

    add(a) ─► queue [a] dirty {a}
    get()  ─► a; queue [] dirty {} processing {a}
    add(a) ─► dirty {a}              (not queued: a is being worked on)
    done(a) ─► queue [a] dirty {a}   (the later addition comes round)

Delayed keys wait in a heap until `now`. The bound is the number of distinct keys: adding one twice costs nothing.
"""

import heapq
from collections import deque
from collections.abc import Container, Hashable
from typing import Generic, TypeVar

from raykube.base.backoff import Backoff, BackoffTable

K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Distinct keys in order of arrival, with delays and a back-off per key. Times are seconds of one clock."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._queue: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}  # the earliest time each delayed key becomes ready; older heap entries are stale
        self._sequence = 0  # keeps the heap from comparing keys
        self._backoff: BackoffTable[K] = BackoffTable(backoff or Backoff())

    def __len__(self) -> int:
        """Keys ready to be handed out."""
        return len(self._queue)

    @property
    def processing(self) -> int:
        return len(self._processing)

    @property
    def delayed(self) -> int:
        return len(self._due)

    def add(self, key: K) -> None:
        """Marks `key` as needing work now."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._processing:
            self._queue.append(key)

    def add_after(self, key: K, delay_s: float, now: float) -> None:
        """Marks `key` as needing work in `delay_s` seconds; of several delays the earliest counts."""
        if delay_s <= 0:
            self.add(key)
            return
        due = now + delay_s
        known = self._due.get(key)
        if known is not None and known <= due:
            return
        self._due[key] = due
        self._sequence += 1
        heapq.heappush(self._heap, (due, self._sequence, key))

    def add_rate_limited(self, key: K, now: float) -> float:
        """Counts a failure of `key` and marks it for after its back-off; returns the delay."""
        delay_s = self._backoff.fail(key)
        self.add_after(key, delay_s, now)
        return delay_s

    def forget(self, key: K) -> None:
        """Ends the back-off of `key`: it succeeded."""
        self._backoff.forget(key)

    def failures(self, key: K) -> int:
        return self._backoff.failures.get(key, 0)

    def get(self, now: float) -> K | None:
        """The next key to work on, or None. Every key got must be given back by `done`."""
        self._promote(now)
        if not self._queue:
            return None
        key = self._queue.popleft()
        self._dirty.discard(key)
        self._processing.add(key)
        return key

    def done(self, key: K) -> None:
        """The work on `key` ended; if it was added meanwhile it is queued again."""
        self._processing.discard(key)
        if key in self._dirty:
            self._queue.append(key)

    def give_back(self, kept: Container[K]) -> None:
        """Whoever worked on keys has stopped: all of them need work again, but for those that are `kept`."""
        for key in [key for key in self._processing if key not in kept]:
            self.add(key)
            self.done(key)

    def next_ready_at(self) -> float | None:
        """When the next delayed key becomes ready; None when none is delayed."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def _promote(self, now: float) -> None:
        while (due := self.next_ready_at()) is not None and due <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._due[key]
            self.add(key)
