"""The store's dumb twins: the whole key space copied for every revision; and a sweep without manners."""

from dataclasses import dataclass, field

from raykube.kv.core.mvcc.store import CUTS_MAX, Store


@dataclass
class DumbStore:
    """`states[revision]` is what a reader at that revision sees: key → (value, create, mod, number)."""

    states: list[dict[bytes, tuple[bytes, int, int, int]]] = field(default_factory=lambda: [{}, {}])
    compacted: int = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def transact(self, operations: list[tuple[bytes, bytes | None]]) -> None:
        """Puts (a value) and deletions (None), in one transaction."""
        state = dict(self.states[-1])
        mod = self.revision + 1
        has_written = False
        for key, value in operations:
            old = state.get(key)
            if value is not None:
                state[key] = (value, old[1] if old else mod, mod, old[3] + 1 if old else 1)
                has_written = True
            elif old is not None:
                del state[key]
                has_written = True
        if has_written:
            self.states.append(state)

    def write(self, key: bytes, value: bytes | None, expected: int) -> bool:
        """A write of a batch; returns whether its comparison held."""
        if not self.holds(key, expected):
            return False
        self.transact([(key, value)])
        return True

    def holds(self, key: bytes, expected: int) -> bool:
        """Whether a comparison with `expected` does."""
        old = self.states[-1].get(key)
        return expected < 0 or (old[2] if old else 0) == expected

    def range(self, start: bytes, end: bytes | None, revision: int) -> list[tuple[bytes, tuple[bytes, int, int, int]]]:
        return sorted(
            (key, record)
            for key, record in self.states[revision].items()
            if key >= start and (end is None or key < end)
        )


class GreedyStore(Store):
    """Gives back all that is forgotten of a key at the first of its events that a sweep looks at."""

    def sweep(self, events_max: int) -> bool:
        horizon, histories = self.compact_revision, self.index.histories
        end = self.position(horizon)
        stop = min(end, self._swept + events_max)
        for event in self.events[self._swept : stop]:
            history = histories.get(event.key)
            while history is not None and len(history) > 1 and history[1].mod <= horizon:
                self._release(history.pop(0))
            if history is not None and len(history) == 1 and history[0].value is None and history[0].mod <= horizon:
                self._release(history[0])
                self.index.remove(event.key)
        self._swept = stop
        if stop == end or stop >= len(self.events) // CUTS_MAX:
            del self.events[:stop]
            self._swept = 0
        return stop < end
