"""Simulated time: one heap of events, and the trace by which a run is known again."""

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable
from zlib import crc32

EVENTS_MAX = 60_000
SHOWN = 30


class Timeline:
    """What happens when. `counts` has how often each kind of thing happened, faults among them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.trace = 0
        self.events_run = 0
        self.counts: Counter[str] = Counter()
        self._last: deque[tuple[object, ...]] = deque(maxlen=SHOWN)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, delay_s: float, run: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay_s, next(self._order), run))

    def note(self, *facts: object) -> None:
        """Adds to the trace, whose checksum is the same in every run of a seed."""
        line = (round(self.now, 9), *facts)
        self._last.append(line)
        self.trace = crc32(repr(line).encode(), self.trace)

    def last_events(self) -> str:
        """The last things that were noted, one a line, for a person."""
        return "\n".join(f"{line[0]:10.4f}s  {' '.join(str(fact) for fact in line[1:])}" for line in self._last)

    def run_until(self, end: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Runs events up to `end`, or until `done`; returns whether it is."""
        while self._events and self._events[0][0] <= end:
            self.now, _, run = heapq.heappop(self._events)
            self.events_run += 1
            assert self.events_run < EVENTS_MAX, "a storm of messages: two members go round in circles"
            run()
            if done():
                return True
        self.now = end
        return done()
