"""How many pods of some kind run on each row, and in which domains of a topology key.

A *domain* is all rows with one value of a label. Counts are per row; the domains that somebody asks about are kept
beside them while pods come and go, and summed anew when a node changed:

    counts per row   1 0 2 0 1
    zone codes       0 0 1 1 2    pods by code  0: 1, 1: 2, 2: 1      there  1 1 1 1 1     sums  1 1 2 2 1
"""

from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from raykube.api.selectors import LabelSelector
from raykube.scheduler.core.nodes import Ints, LabelColumn, Mask, NodeTable

Floats = NDArray[np.float64]
Key = TypeVar("Key")


class Domains:
    """Where a tally's pods are, by domain of one key. Rows without the label are in no domain; nor are dead ones."""

    def __init__(self, nodes: NodeTable, key: str, tally: "Tally") -> None:
        self._nodes = nodes
        self._column: LabelColumn = nodes.column(key)
        self._tally = tally
        self._at = (-1, -1)
        self._pods: Counter[int] = Counter()  # by code
        self._members: dict[int, NDArray[np.intp]] = {}  # rows by code, of codes that were asked for
        self._alone = False  # every row is a domain of its own, as with host names
        self._there: Mask = np.zeros(0, bool)
        self._sums: Floats | None = None

    def there(self) -> Mask:
        """The rows in a domain with such a pod; changed in place later."""
        self._catch_up()
        return self._there

    def anywhere(self) -> bool:
        """Whether some domain has such a pod."""
        self._catch_up()
        return bool(self._pods)

    def sums(self) -> Floats:
        """By row how many such pods are in its domain; changed in place later."""
        self._catch_up()
        if self._sums is None:
            by_code = np.zeros(len(self._column.code_of) + 1)
            for code, pods in self._pods.items():
                by_code[code] = pods
            self._sums = by_code.take(self._column.codes)  # code -1 finds the last one
        return self._sums

    def labelled(self) -> Mask:
        """The rows that are in any domain."""
        labelled: Mask = self._column.codes >= 0
        return labelled

    def _catch_up(self) -> None:
        nodes = self._nodes
        at = nodes.revised, nodes.capacity
        if self._at == at:
            return
        self._at = at
        codes, count = self._column.codes, len(self._column.code_of)
        counts = self._tally.column(nodes.capacity)
        rows = np.flatnonzero((counts > 0) & (codes >= 0) & nodes.live)
        sums = np.bincount(codes[rows], weights=counts[rows], minlength=count + 1)
        self._pods = Counter({code: int(sums[code]) for code in np.flatnonzero(sums).tolist()})
        self._there = (sums > 0).take(codes)
        self._members = {}
        self._alone = bool((np.bincount(codes[codes >= 0], minlength=1) <= 1).all())
        self._sums = None

    def count(self, row: int, sign: int) -> None:
        """A pod came to the row or left it."""
        nodes = self._nodes
        if self._at != (nodes.revised, nodes.capacity):
            return  # all is summed anew when somebody asks
        code = self._column.codes.item(row)
        if code < 0 or not nodes.live.item(row):
            return
        pods = self._pods[code] + sign
        rows: int | NDArray[np.intp] = row if self._alone else self._rows(code)
        if pods:
            self._pods[code] = pods
            if pods == 1 == sign:
                self._there[rows] = True
        else:
            del self._pods[code]
            self._there[rows] = False
        if self._sums is not None:
            self._sums[rows] = pods

    def _rows(self, code: int) -> NDArray[np.intp]:
        found = self._members.get(code)
        if found is None:
            found = self._members[code] = np.flatnonzero(self._column.codes == code)
        return found


class Tally:
    """Pods per row."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self.counts: Ints = np.zeros(nodes.capacity, np.int64)
        self._domains: dict[str, Domains] = {}
        self.total = 0
        self.dropped = False

    def drop(self) -> None:
        """Nobody asks any more; pods may still name it."""
        self.dropped = True
        self.counts = np.zeros(0, np.int64)
        self._domains = {}

    def count(self, row: int, sign: int) -> None:
        if self.dropped:
            return
        if row >= len(self.counts):
            self.column(self._nodes.capacity)
        self.counts[row] += sign
        self.total += sign
        for domains in self._domains.values():
            domains.count(row, sign)

    def column(self, capacity: int) -> Ints:
        if len(self.counts) < capacity:
            self.counts = np.concatenate((self.counts, np.zeros(capacity - len(self.counts), np.int64)))
        return self.counts

    def domains(self, key: str) -> Domains:
        """By one topology key; kept from the first time on."""
        found = self._domains.get(key)
        if found is None:
            found = self._domains[key] = Domains(self._nodes, key, self)
        return found


class ByLabel(Generic[Key]):
    """Things that mean pods, by one label that such a pod has for certain; those that name none apart."""

    def __init__(self) -> None:
        self._by_label: dict[tuple[str, str] | None, dict[Key, None]] = {}

    def add(self, key: Key, selector: LabelSelector) -> None:
        self._by_label.setdefault(_label_of(selector), {})[key] = None

    def discard(self, key: Key, selector: LabelSelector) -> None:
        label = _label_of(selector)
        del self._by_label[label][key]
        if not self._by_label[label]:
            del self._by_label[label]

    def about(self, labels: dict[str, str]) -> Iterator[Key]:
        """Those that may mean a pod with these labels."""
        yield from self._by_label.get(None, ())
        for label in labels.items():
            yield from self._by_label.get(label, ())


def _label_of(selector: LabelSelector) -> tuple[str, str] | None:
    return next(iter(selector.exact.items()), None)
