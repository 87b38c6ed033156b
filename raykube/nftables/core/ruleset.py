"""The items that a table ought to have, counted, and what changed in them.

Holders share items: all Services with four endpoints use one chain. An item is there as long as somebody holds it.
"""

from collections.abc import Mapping

from raykube.nftables.core.objects import Delta, Item, Items, Value


def difference(installed: Mapping[Item, Value], desired: Mapping[Item, Value]) -> Delta:
    """What makes `desired` of `installed`."""
    delta: Delta = {item: (old, None) for item, old in installed.items() if item not in desired}
    for item, new in desired.items():
        old = installed.get(item)
        if old != new:
            delta[item] = (old, new)
    return delta


class Ruleset:
    """The items that ought to be installed. Holders are named by anything hashable."""

    def __init__(self) -> None:
        self.items: Items = {}
        self._holders: dict[Item, int] = {}
        self._held: dict[object, Items] = {}
        self._touched: dict[Item, Value | None] = {}  # what they were when `take` was called last

    def held(self, holder: object) -> Items:
        """What a holder holds."""
        return self._held.get(holder, {})

    def replace(self, changes: Mapping[object, Items]) -> None:
        """Each holder holds just its items from now on; those of one call may change an item that they share."""
        before = {holder: self._held.pop(holder, {}) for holder in changes}
        for holder, items in changes.items():
            old = before[holder]
            for item in old:
                if item not in items:
                    self._touch(item)
                    self._holders[item] -= 1
            for item, value in items.items():
                if item not in old:
                    self._touch(item)
                    self._holders[item] = self._holders.get(item, 0) + 1
                if self.items.get(item) != value:
                    self._touch(item)
                    self.items[item] = value
            if items:
                self._held[holder] = items
        for old in before.values():
            for item in old:
                if self._holders.get(item) == 0:
                    del self._holders[item]
                    self.items.pop(item, None)

    def _touch(self, item: Item) -> None:
        self._touched.setdefault(item, self.items.get(item))

    def take(self) -> Delta:
        """What has changed since the last call."""
        touched, self._touched = self._touched, {}
        changed = ((item, old, self.items.get(item)) for item, old in touched.items())
        return {item: (old, new) for item, old, new in changed if old != new}
