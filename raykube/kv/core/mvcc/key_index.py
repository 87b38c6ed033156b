"""Histories by key, and the keys in order.

New keys are put in order when somebody asks for a range, or when many wait for it: a burst of writes pays one merge
instead of a search per key, and none that takes long. Keys whose newest version is a tombstone stay in the index until
compaction passes them; they are counted apart, so that counting the live keys of a range needs no walk.
"""

from bisect import bisect_right
from collections.abc import Iterator
from heapq import merge
from operator import attrgetter

from sortedcontainers import SortedList, SortedSet

from raykube.kv.core.mvcc.version import Version

_mod = attrgetter("mod")

# etcd's notation: this range end means "up to the last key".
UNBOUNDED = b"\0"
FRESH_MAX = 2048  # keys that wait to be put in order: some milliseconds in a store of a million
PIECE_KEYS = 16_384  # that are sorted at a time: some milliseconds, too


def at(history: list[Version], revision: int) -> Version | None:
    """The version a reader at `revision` sees, None when the key does not exist then."""
    position = bisect_right(history, revision, key=_mod)
    if position == 0:
        return None
    version = history[position - 1]
    return None if version.value is None else version


class KeyIndex:
    """`histories[key]` is the key's versions, oldest first, never empty. Write to it, then tell `on_*`."""

    def __init__(self) -> None:
        self.histories: dict[bytes, list[Version]] = {}
        self.dead: SortedSet = SortedSet()  # keys whose newest version is a tombstone
        self._order: SortedList = SortedList()
        self._fresh: list[bytes] = []  # keys that are not in order yet

    def add(self, key: bytes, version: Version) -> None:
        """A first version of a key that is not in the index."""
        self.histories[key] = [version]
        self._fresh.append(key)
        if len(self._fresh) >= FRESH_MAX:
            self._ordered()

    def remove(self, key: bytes) -> None:
        """Forgets a key and its history."""
        del self.histories[key]
        self.dead.discard(key)
        self._ordered().remove(key)

    def put_in_order(self) -> None:
        """Puts in order what was put into the empty `histories` by hand.

        In pieces, which takes twice as long: a thread may call this, and Python stands still while it sorts.
        """
        keys = list(self.histories)
        pieces = [sorted(keys[start : start + PIECE_KEYS]) for start in range(0, len(keys), PIECE_KEYS)]
        self._order = SortedList(merge(*pieces))

    def _ordered(self) -> SortedList:
        if self._fresh:
            self._order.update(self._fresh)
            self._fresh.clear()
        return self._order

    def keys(self, start: bytes, end: bytes | None) -> Iterator[bytes]:
        """The keys of [start, end) in order, dead ones among them; `end` None: to the last."""
        return iter(self._ordered().irange(start, end, (True, False)))

    def count_live(self, start: bytes, end: bytes | None) -> int:
        """How many keys of [start, end) exist now."""
        order = self._ordered()
        if end is not None and end <= start:
            return 0
        upper, upper_dead = (
            (len(order), len(self.dead)) if end is None else (order.bisect_left(end), self.dead.bisect_left(end))
        )
        return int(upper - order.bisect_left(start) - (upper_dead - self.dead.bisect_left(start)))
