"""Reads all that a store holds, a slice at a time, and compares it with what was written: memory rots, code errs.

One pass covers the versions that were there when it began. What compaction gives back ahead of the pass is taken off
what it must find; `Store` tells it. A pass may stop within the history of a key: it counts what it has passed of that,
as versions only come at the end of a history and go from its beginning.
"""

from typing import TYPE_CHECKING

from raykube.kv.core.mvcc.digest import SUM_MASK, checksum, lease_checksum
from raykube.kv.core.mvcc.version import Version

if TYPE_CHECKING:
    from raykube.kv.core.mvcc.store import Store


LONG_BYTES = 1 << 13  # of a value: what as many more cost counts as another version


class Rotten(ValueError):
    """The store does not hold what was written to it. Up to the entry `sound` it did."""

    sound = 0


class Scrub:
    """One pass over `store`; call `step` until it returns True."""

    def __init__(self, store: "Store") -> None:
        self.store = store
        self._revision = store.revision
        self._wanted = store.written - store.released
        self._found = 0
        self._next = b""
        self._passed = 0  # how many versions of key `_next`, its oldest, were looked at
        store.scrub = self

    def on_released(self, version: Version, value: int) -> None:
        """Compaction gave `version`, the oldest of its key, with checksum `value`, back."""
        if self._passed and version.key == self._next:
            self._passed -= 1
        elif version.key >= self._next and version.mod <= self._revision:
            self._wanted -= value

    def step(self, versions_max: int) -> bool:
        """Looks at `versions_max` versions at most, fewer when they are long; returns whether that was the last.

        Raises Rotten.
        """
        store, revision = self.store, self._revision
        histories, dead = store.index.histories, store.index.dead
        found, left, last = 0, versions_max, self._next
        for key in store.index.keys(self._next, None):
            history = histories.get(key, [])
            if not history or (history[-1].value is None) != (key in dead):
                raise Rotten(f"the index does not agree with the versions of key {key!r}")
            passed = self._passed if key == last else 0
            for version in history[passed : passed + max(left, 0)]:
                if version.key is not key and version.key != key:
                    raise Rotten(f"a version of key {version.key!r} is kept under {key!r}")
                if version.mod > revision:
                    passed = len(history)  # so are the rest. A key may be written to faster than it is looked through
                    left -= 1
                    break
                found += checksum(version)
                passed += 1
                left -= 1 + len(version.value or b"") // LONG_BYTES
                if left <= 0:
                    break
            if passed < len(history):
                self._next, self._passed = key, passed
                break
        else:
            self._found += found
            self._end()
            return True
        self._found += found
        return False

    def _end(self) -> None:
        store = self.store
        store.scrub = None
        if (self._found - self._wanted) & SUM_MASK:
            raise Rotten(f"the versions up to revision {self._revision} are not those that were written")
        leases = sum(lease_checksum(lease.id, lease.ttl_s) for lease in store.leases.values())
        if leases != store.leases_sum:
            raise Rotten("the leases are not those that were granted")
