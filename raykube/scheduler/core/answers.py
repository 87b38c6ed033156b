"""What filters and scores say of nodes themselves, kept as columns for all classes that ask nodes for the same.

Pods that differ in what they use mostly tolerate the same taints and select the same labels. The plugins say what of a
class their answers depend on (`Plugin.alike`); classes for which that is equal share one column, and it is judged anew
for the rows whose node changed. Columns go when no class uses them any more.
"""

from collections.abc import Hashable
from weakref import WeakValueDictionary

import numpy as np

from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.plugin import EVERY, Floats, NodeFilter, NodeScore, View
from raykube.scheduler.core.terms import Rows

ROWS_MAX = 256  # from so many changed nodes on all are judged


class _Kept:
    """How far a column has followed the nodes."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._at = -1  # in the table's count of changes
        self._capacity = -1

    def _changed(self) -> Rows | None:
        """The rows to judge anew; None: none."""
        nodes = self._nodes
        if self._at == nodes.revised and self._capacity == nodes.capacity:
            return None
        changed = nodes.changed_since(self._at) if self._capacity == nodes.capacity else None
        self._at, self._capacity = nodes.revised, nodes.capacity
        if changed is None or len(changed) > ROWS_MAX:
            return EVERY
        return np.fromiter(changed, np.intp, len(changed))


class Passing(_Kept):
    """The rows that one filter lets pass."""

    def __init__(self, nodes: NodeTable, one: NodeFilter) -> None:
        super().__init__(nodes)
        self.filter = one
        self._rows: Mask = np.zeros(0, bool)

    def rows(self) -> Mask:
        """As of now; changed in place later."""
        rows = self._changed()
        if isinstance(rows, slice):
            self._rows = self.filter.passes(rows)
        elif rows is not None:
            self._rows[rows] = self.filter.passes(rows)
        return self._rows


class Raw(_Kept):
    """What one score says of all rows, before it is scaled."""

    def __init__(self, nodes: NodeTable, score: NodeScore) -> None:
        super().__init__(nodes)
        self.score = score
        self.revises = type(score).revision is not NodeScore.revision
        self.values: Floats | None = None  # None: 0 everywhere
        self.differs = False  # some row has more than 0
        self.version = 0  # of the values
        self._revision = 0

    def catch_up(self) -> int:
        """Takes in what changed; the version of the values."""
        nodes = self._nodes
        rows = None if self._at == nodes.revised and self._capacity == len(nodes.live) else self._changed()
        if self.revises:
            revision = self.score.revision()
            if revision != self._revision:
                self._revision, rows = revision, EVERY
        if rows is None:
            return self.version
        self.version += 1
        if isinstance(rows, slice) or self.values is None:
            self.values = self.score.raw(EVERY)
        else:
            found = self.score.raw(rows)
            self.values[rows] = 0.0 if found is None else found
        self.differs = self.values is not None and bool(self.values.any())
        return self.version


class Answers:
    """All columns that some class uses."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._passing: WeakValueDictionary[Hashable, Passing] = WeakValueDictionary()
        self._raw: WeakValueDictionary[Hashable, Raw] = WeakValueDictionary()

    def passing(self, one: type[NodeFilter], view: View) -> Passing:
        """What a filter says of a class."""
        like = one.alike(view)
        known = None if like is None else self._passing.get((one, like))
        if known is None:
            known = Passing(self._nodes, one(view))
            if like is not None:
                self._passing[one, like] = known
        return known

    def raw(self, score: type[NodeScore], view: View) -> Raw:
        """What a score says of a class."""
        like = score.alike(view)
        known = None if like is None else self._raw.get((score, like))
        if known is None:
            known = Raw(self._nodes, score(view))
            if like is not None:
                self._raw[score, like] = known
        return known
