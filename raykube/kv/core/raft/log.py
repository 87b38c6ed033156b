"""The log of one member: what it holds, what is stable, committed and handed out for applying.

    base          stable      last
     │ e e e e e e e │ e e e e │        handed ≤ committed ≤ last, handed ≤ stable
     └ snapshot or compaction point

Invariant: a committed entry is never replaced. A caller that tries has met a broken cluster, and must stop.
"""

from collections.abc import Sequence

from raykube.kv.core.raft.messages import Entry


class Log:
    """Entries (base, last], in memory; `base` and its term stand for all before."""

    def __init__(self, base: int = 0, base_term: int = 0, entries: Sequence[Entry] = (), commit: int = 0) -> None:
        self.base = base
        self.base_term = base_term
        self.entries = list(entries)
        self.stable = self.last
        self.committed = max(base, min(commit, self.last))
        self.handed = base
        self.answers_for = (0, 0)  # term, index: beyond the last entry only when damage took some (see recovery.py)

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.base_term

    def term(self, index: int) -> int | None:
        """The term of the entry at `index`, None where this log has none (any more)."""
        if index == self.base:
            return self.base_term
        if self.base < index <= self.base + len(self.entries):
            return self.entries[index - self.base - 1].term
        return None

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as new as this one (Raft §5.4.1: term first, then length)."""
        return (term, index) >= max((self.last_term, self.last), self.answers_for)

    @property
    def is_lacking(self) -> bool:
        """Whether this log lacks entries that its member has acknowledged."""
        return (self.last_term, self.last) < self.answers_for

    def slice(self, first: int, last: int, bytes_max: int) -> list[Entry]:
        """Entries from `first` to `last`, at least one if there is one, no more than `bytes_max` of data."""
        found: list[Entry] = []
        size = 0
        for position in range(first - self.base - 1, last - self.base):
            entry = self.entries[position]
            size += len(entry.data) + 32
            if found and size > bytes_max:
                break
            found.append(entry)
        return found

    def tail(self, index: int, entries_max: int, bytes_max: int) -> int:
        """The index behind which the last entries up to `index` are no more than `entries_max` and `bytes_max`."""
        first = max(self.base, index - entries_max)
        size = 0
        while index > first:
            size += len(self.entries[index - self.base - 1].data)
            if size > bytes_max:
                break
            index -= 1
        return index

    def append(self, entries: Sequence[Entry]) -> None:
        """A leader's own new entries, right behind the last."""
        self.entries.extend(entries)

    def first_conflict(self, entries: Sequence[Entry]) -> int | None:
        """The position in `entries` of the first one that this log lacks or has with another term."""
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                return position
        return None

    def replace(self, entries: Sequence[Entry]) -> None:
        """Cuts the log before the first of `entries`, and appends them."""
        first = entries[0].index
        if first <= self.committed:
            raise AssertionError(f"entry {first} would be replaced, but {self.committed} is committed")
        del self.entries[first - self.base - 1 :]
        self.stable = min(self.stable, first - 1)
        self.entries.extend(entries)

    def commit_to(self, index: int) -> bool:
        """Marks entries up to `index` committed; returns whether that is news."""
        if index <= self.committed:
            return False
        if index > self.last:
            raise AssertionError(f"commit index {index} is beyond the last entry {self.last}")
        self.committed = index
        return True

    def mark_stable(self, entries: Sequence[Entry]) -> None:
        """The disk has `entries`: what of them is still in the log is stable."""
        for entry in reversed(entries):
            if self.term(entry.index) == entry.term:
                self.stable = max(self.stable, entry.index)
                return

    def unstable(self, last: int) -> list[Entry]:
        """What the disk has not, up to `last`."""
        return self.entries[self.stable - self.base : last - self.base]

    @property
    def has_to_hand(self) -> bool:
        """Whether `take_committed` has something to give."""
        return min(self.committed, self.stable) > self.handed

    def take_committed(self, bytes_max: int) -> list[Entry]:
        """Hands out the next committed and stable entries, each once."""
        ready = min(self.committed, self.stable)
        if ready <= self.handed:
            return []
        found: list[Entry] = []
        size = 0
        for entry in self.entries[self.handed - self.base : ready - self.base]:
            size += len(entry.data)
            if found and size > bytes_max:
                break
            found.append(entry)
        self.handed = found[-1].index
        return found

    def backtrack(self, index: int, term: int) -> int:
        """The last index at or before `index` whose term is `term` or less: where two logs may still agree.

        An index before the base says that they may agree only where this log has nothing any more.
        """
        index = min(index, self.last)
        while index >= self.base:
            here = self.term(index)
            if here is None or here <= term:
                break
            index -= 1
        return index

    def compact(self, index: int) -> None:
        """Drops entries up to `index`, which must be applied."""
        if index <= self.base:
            return
        if index > self.handed:
            raise AssertionError(f"log cut at {index}, but only {self.handed} is applied")
        term = self.term(index)
        assert term is not None
        del self.entries[: index - self.base]
        self.base, self.base_term = index, term

    def reset(self, index: int, term: int) -> None:
        """A snapshot stands for the whole log now."""
        self.base, self.base_term = index, term
        self.entries.clear()
        self.stable = self.committed = self.handed = index
