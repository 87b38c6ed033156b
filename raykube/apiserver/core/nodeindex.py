"""Pods by their node: what a kubelet, or `kubectl describe node`, lists costs what it finds, not all that there is."""

from collections.abc import Iterable

from raykube.apiserver.core.fields import Fields
from raykube.apiserver.core.item import Change, Item
from raykube.apiserver.core.selecting import NODE_FIELD

_NAMES = (NODE_FIELD,)


class NodeIndex:
    """Kept from the start: to make it when somebody asks would hold up everybody else."""

    __slots__ = ("_fields", "_items")

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self._items: dict[str, dict[str, Item]] = {}

    def replace(self, items: Iterable[Item]) -> None:
        """These are all that there are."""
        self._items = {}
        for item in items:
            node = self._node(item)
            if node:
                self._items.setdefault(node, {})[item.key] = item

    def apply(self, change: Change) -> tuple[str, str]:
        """Keeps up with a write; the nodes before and after it."""
        before, after = change.before, change.after
        was = self._node(before) if before is not None else ""
        now = self._node(after) if after is not None else ""
        if after is not None and now:
            self._items.setdefault(now, {})[change.key] = after
        if was and now != was:
            there = self._items[was]
            del there[change.key]
            if not there:
                del self._items[was]
        return was, now

    def of(self, node: str) -> list[Item]:
        """The pods on a node, in no order."""
        return list(self._items.get(node, {}).values())

    def _node(self, item: Item) -> str:
        return item.fields(self._fields, _NAMES)[NODE_FIELD]
