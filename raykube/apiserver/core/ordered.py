"""Items by key, and their keys in order.

    by_key   a/x ─► Item   a/y ─► Item   b/x ─► Item          every one, at once
    order    a/x a/y                                          sorted
    fresh    b/x                                              put in order when somebody asks for a range

A burst of creations pays one merge, not a search for each key; a copy of `by_key` is one of the quickest things that
there are, and holds a moment for those who need longer than a turn of the event loop.
"""

from collections.abc import Iterator

from sortedcontainers import SortedList

from raykube.apiserver.core.item import Item

# The last character below "/" and the one above it: a namespace's keys are those in ["ns/", "ns0").
_AFTER_SLASH = "0"


class Range:
    """The keys from `low` on that are below `high` (None: to the end)."""

    __slots__ = ("high", "low")

    def __init__(self, namespace: str = "", start: str = "") -> None:
        """A namespace's keys, or all, from `start` on."""
        self.low = max(start, namespace + "/") if namespace else start
        self.high = namespace + _AFTER_SLASH if namespace else None

    def __contains__(self, key: str) -> bool:
        return key >= self.low and (self.high is None or key < self.high)

    def behind(self, key: str) -> "Range":
        """What of it comes after `key`."""
        rest = Range()
        rest.low, rest.high = key + "\0", self.high
        return rest


class OrderedItems:
    """Change it by `put` and `pop` only."""

    def __init__(self, items: dict[str, Item] | None = None) -> None:
        self.by_key = items or {}
        self._order: SortedList[str] = SortedList(self.by_key)
        self._fresh: set[str] = set()

    def put(self, item: Item) -> Item | None:
        """Adds or replaces; returns what was there."""
        key = item.key
        before = self.by_key.get(key)
        if before is None:
            self._fresh.add(key)
        self.by_key[key] = item
        return before

    def pop(self, key: str) -> Item | None:
        """Takes out; returns what was there."""
        item = self.by_key.pop(key, None)
        if item is not None:
            if key in self._fresh:
                self._fresh.remove(key)
            else:
                self._order.remove(key)
        return item

    def keys(self, keys: Range) -> Iterator[str]:
        """Keys in order."""
        order = self._ordered()
        if not keys.low and keys.high is None:
            return iter(order)
        found: Iterator[str] = order.irange(keys.low or None, keys.high, inclusive=(True, False))
        return found

    def count(self, keys: Range) -> int:
        """How many keys."""
        order = self._ordered()
        end = len(order) if keys.high is None else order.bisect_left(keys.high)
        return max(0, int(end - order.bisect_left(keys.low)))

    def _ordered(self) -> "SortedList[str]":
        if self._fresh:
            self._order.update(self._fresh)
            self._fresh.clear()
        return self._order
