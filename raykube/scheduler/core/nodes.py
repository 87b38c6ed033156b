"""The nodes as columns: one row per node, updated in place.

    row   live  taint_set  allocatable[cpu]  requested[cpu]  pod_count  label column "zone"
     0     1        0           8000              2100           12            0  (values: a, b)
     1     1        3           8000               300            3            1
     2     0        …           a free row, or a node that pods name but that is not known (yet)

Every change of a row is put in `log`: a reader remembers how far it has read and catches up on those rows alone. An
entry is row*2 for a change of what is used, row*2+1 for a change of the node itself. Labels become columns of codes
when somebody first asks for them.

Only what some node names in its allocatable is a column of `allocatable` and `requested`: pods may ask for anything.
What they ask for of the rest is kept aside, and comes in when a node names it. For who asks, the rest is one column,
`ABSENT`, of which no node ever has anything.

Who looks at all rows takes the columns; who looks at one row takes `cells`, which are the same memory: numpy needs two
or three times as long to read or write a single number.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.images import ImageTable
from raykube.scheduler.core.requests import CPU, MEMORY, offered
from raykube.scheduler.core.requirements import HostPort, Requirements
from raykube.scheduler.core.taints import TaintSets, taints_of

Object = dict[str, Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]

ROWS_MIN = 64
GROWTH = 8  # the columns grow by such a part
LOG_MAX = 65_536
COLUMNS_MIN = 8
ABSENT = 2  # beside cpu and memory


class LabelColumn:
    """The values of one label as codes; -1 where a node does not have it."""

    def __init__(self, rows: int) -> None:
        self.codes: Codes = np.full(rows, -1, np.int32)
        self.code_of: dict[str, int] = {}

    def code(self, value: str) -> int:
        return self.code_of.setdefault(value, len(self.code_of))


class Unnamed:
    """What pods ask for of resources that no node names: amounts by name and row."""

    def __init__(self) -> None:
        self._amounts: dict[str, Counter[int]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._amounts

    def __iter__(self) -> Iterator[str]:
        return iter(self._amounts)

    def add(self, name: str, row: int, more: int) -> None:
        amounts = self._amounts.setdefault(name, Counter())
        amounts[row] += more
        if not amounts[row]:
            del amounts[row]
            if not amounts:
                del self._amounts[name]

    def move(self, name: str, column: Ints) -> None:
        """Into the column that the resource has now."""
        for row, amount in self._amounts.pop(name, {}).items():
            column[row] += amount


class Cells(NamedTuple):
    """The columns that change with each pod, and what they are compared with: `cells.requested[index][row]`."""

    allocatable: list["memoryview[int]"]
    per_unit: list["memoryview[float]"]
    requested: list["memoryview[int]"]
    unasked: list["memoryview[int]"]
    pods_allowed: "memoryview[int]"
    pod_count: "memoryview[int]"


class NodeTable:
    """All nodes. Readers use the columns directly and never write them."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.addresses: dict[str, int] = {}  # rows by InternalIP
        self.names: list[str] = []
        self.labels: list[dict[str, str]] = []
        self.count = 0  # live nodes
        self.resource_index: dict[str, int] = {CPU: 0, MEMORY: 1}  # of those that nodes name
        self.live: Mask = np.zeros(ROWS_MIN, bool)
        self.unschedulable: Mask = np.zeros(ROWS_MIN, bool)
        self.taint_set: Codes = np.zeros(ROWS_MIN, np.int32)
        self.allocatable: Ints = np.zeros((COLUMNS_MIN, ROWS_MIN), np.int64)
        self.per_unit: Floats = np.zeros((COLUMNS_MIN, ROWS_MIN))  # 1 / allocatable, 0 where there is none
        self.requested: Ints = np.zeros((COLUMNS_MIN, ROWS_MIN), np.int64)
        self.unasked: Ints = np.zeros((COLUMNS_MIN, ROWS_MIN), np.int64)  # what counts in scores beside `requested`
        self.pods_allowed: Ints = np.zeros(ROWS_MIN, np.int64)
        self.pod_count: Ints = np.zeros(ROWS_MIN, np.int64)
        self.taints = TaintSets()
        self.ports: dict[int, Counter[HostPort]] = {}
        self.images = ImageTable()
        self.log: list[int] = []
        self.revised = 0  # changes of nodes themselves, not of what is used
        self.news = 0  # nodes that came, were said anew, or went; also where nothing but their images changed
        self._changed: list[int] = []  # the rows of the last of these changes
        self.epoch = 0  # raised when the log was cut or the columns are new arrays: readers start over
        self._unnamed = Unnamed()
        self._everywhere: dict[int, tuple[int, bool]] = {}
        self._columns: dict[str, LabelColumn] = {}
        self._addresses_of: dict[int, set[str]] = {}
        self._free: list[int] = []
        self.cells = self._cells()

    @property
    def capacity(self) -> int:
        return len(self.live)

    def touch(self, row: int, node_changed: bool) -> None:
        if len(self.log) >= LOG_MAX:
            self._start_over()
        self.log.append(row * 2 + node_changed)
        if node_changed:
            if len(self._changed) >= LOG_MAX:
                self._changed.clear()
            self._changed.append(row)
            self.revised += 1

    def _start_over(self) -> None:
        self.log.clear()
        self.epoch += 1

    def changed_since(self, revised: int) -> set[int] | None:
        """The rows whose node changed since the table had that count of changes; None: nobody knows any more."""
        since = self.revised - revised
        return set(self._changed[len(self._changed) - since :]) if since <= len(self._changed) else None

    # Nodes

    def row_of(self, name: str) -> int:
        """The row of a node; a new row, not live, for one that is not known."""
        row = self.rows.get(name)
        if row is not None:
            return row
        if self._free:
            row = self._free.pop()
            self.names[row] = name
        else:
            row = len(self.names)
            if row == self.capacity:
                self._grow()
            self.names.append(name)
            self.labels.append({})
        self.rows[name] = row
        return row

    def set_node(self, node: Object) -> bool:
        """Takes in a node as it is now; False when nothing that matters here changed."""
        self.news += 1
        metadata = node["metadata"]
        spec, status = node.get("spec") or {}, node.get("status") or {}
        row = self.row_of(metadata["name"])
        labels = metadata.get("labels") or {}
        allocatable = status.get("allocatable") or status.get("capacity") or {}
        changed = not self.live[row]
        if changed:
            self.live[row] = True
            self.count += 1
        unschedulable = bool(spec.get("unschedulable"))
        if bool(self.unschedulable[row]) != unschedulable:
            self.unschedulable[row] = unschedulable
            changed = True
        taint_set = self.taints.intern(taints_of(spec))
        if self.taint_set[row] != taint_set:
            self.taint_set[row] = taint_set
            changed = True
        if self.labels[row] != labels:
            self.labels[row] = labels
            for key, column in self._columns.items():
                column.codes[row] = column.code(labels[key]) if key in labels else -1
            changed = True
        changed |= self._set_allocatable(row, allocatable)
        changed |= self._set_addresses(row, status.get("addresses") or ())
        self.images.set_row(row, status.get("images") or [])
        if changed:
            self.touch(row, node_changed=True)
        return changed

    def _set_addresses(self, row: int, addresses: Iterable[Object]) -> bool:
        found = {one["address"] for one in addresses if one.get("type") == "InternalIP" and one.get("address")}
        if found == self._addresses_of.get(row, set()):
            return False
        for address in self._addresses_of.pop(row, set()):
            if self.addresses.get(address) == row:
                del self.addresses[address]
        if found:
            self._addresses_of[row] = found
        for address in found:
            self.addresses[address] = row
        return True

    def _set_allocatable(self, row: int, allocatable: dict[str, Any]) -> bool:
        for name in allocatable:
            if name != "pods":
                self._name(name)
        amounts = np.zeros(len(self.allocatable), np.int64)
        pods = 0
        for name, quantity in allocatable.items():
            if name == "pods":
                pods = offered(name, quantity)
            else:
                amounts[self.resource_index[name]] = offered(name, quantity)
        if self.pods_allowed[row] == pods and (self.allocatable[:, row] == amounts).all():
            return False
        self.pods_allowed[row] = pods
        self.allocatable[:, row] = amounts
        self.per_unit[:, row] = np.where(amounts > 0, 1.0 / np.maximum(amounts, 1), 0.0)
        return True

    def cordon(self, name: str) -> None:
        """As if the node's spec.unschedulable were set."""
        row = self.row_of(name)
        self.unschedulable[row] = True
        self.touch(row, node_changed=True)

    def remove_node(self, name: str) -> None:
        row = self.rows.get(name)
        if row is None or not self.live[row]:
            return
        self.news += 1
        self.live[row] = False
        self.count -= 1
        self.images.set_row(row, [])
        self._set_addresses(row, ())
        self.touch(row, node_changed=True)
        self._release(row)

    def _release(self, row: int) -> None:
        """Frees a row that neither a node nor a pod uses any more."""
        if self.live[row] or self.pod_count[row]:
            return
        self.rows.pop(self.names[row], None)
        self.names[row] = ""
        self.labels[row] = {}
        for column in self._columns.values():
            column.codes[row] = -1
        self.unschedulable[row] = False
        self.taint_set[row] = 0
        self.allocatable[:, row] = 0
        self.per_unit[:, row] = 0.0
        self.pods_allowed[row] = 0
        self._free.append(row)

    # What pods use

    def use(self, row: int, needs: Requirements, sign: int) -> None:
        """Adds (sign 1) or takes away (sign -1) one pod of a class."""
        cells = self.cells
        for name, needed in needs.resources:
            index = self.resource_index.get(name)
            if index is None:
                self._unnamed.add(name, row, sign * needed)
            else:
                try:
                    cells.requested[index][row] += sign * needed
                except ValueError:  # more than int64 has room for is of no use, but may go the way that it came
                    self.requested[index, row] += sign * needed
        for name, counted in needs.unasked:
            cells.unasked[self.resource_index[name]][row] += sign * counted
        cells.pod_count[row] += sign
        for port in needs.host_ports:
            ports = self.ports.setdefault(row, Counter())
            ports[port] += sign
            if not ports[port]:
                del ports[port]
        self.touch(row, node_changed=False)
        if sign < 0:
            self._release(row)

    def port_conflict(self, row: int, wanted: tuple[HostPort, ...]) -> bool:
        """Whether one of the ports is taken: same protocol and number, and an address in common."""
        used = self.ports.get(row)
        if not used:
            return False
        everywhere = "0.0.0.0"
        return any(
            port.port == other.port
            and port.protocol == other.protocol
            and (port.ip == other.ip or everywhere in (port.ip, other.ip))
            for port in wanted
            for other in used
        )

    # Columns

    def index_of(self, resource: str) -> int:
        """The row of a resource in `allocatable` and `requested`, as of now: a node may name it later."""
        return self.resource_index.get(resource, ABSENT)

    @property
    def kinds(self) -> int:
        """How many rows of `allocatable` and `requested` are in use."""
        return len(self.resource_index) + 1

    def _name(self, resource: str) -> None:
        """A node names a resource: it has a column from now on."""
        if resource in self.resource_index:
            return
        index = self.kinds
        if index == len(self.allocatable):
            blank = np.zeros_like(self.allocatable)
            self.allocatable = np.concatenate((self.allocatable, blank))
            self.per_unit = np.concatenate((self.per_unit, blank.astype(np.float64)))
            self.requested = np.concatenate((self.requested, blank))
            self.unasked = np.concatenate((self.unasked, blank))
        self.resource_index[resource] = index
        self._unnamed.move(resource, self.requested[index])
        self.cells = self._cells()
        self._start_over()

    def everywhere(self, index: int) -> bool:
        """Whether every node has some of a resource: then nobody need look which ones do."""
        revised, answer = self._everywhere.get(index, (-1, False))
        if revised != self.revised:
            answer = not (self.live & (self.allocatable[index] <= 0)).any()
            self._everywhere[index] = self.revised, answer
        return answer

    def column(self, label: str) -> LabelColumn:
        column = self._columns.get(label)
        if column is None:
            column = self._columns[label] = LabelColumn(self.capacity)
            for row, labels in enumerate(self.labels):
                if label in labels:
                    column.codes[row] = column.code(labels[label])
        return column

    def _grow(self) -> None:
        # Columns are worked on as a whole: empty rows cost as much as others.
        more = max(ROWS_MIN, self.capacity // GROWTH // ROWS_MIN * ROWS_MIN)

        def longer(column: NDArray[Any], fill: int = 0) -> NDArray[Any]:
            return np.concatenate((column, np.full((*column.shape[:-1], more), fill, column.dtype)), axis=-1)

        self.live, self.unschedulable = longer(self.live), longer(self.unschedulable)
        self.taint_set = longer(self.taint_set)
        self.allocatable, self.requested = longer(self.allocatable), longer(self.requested)
        self.per_unit = longer(self.per_unit)
        self.unasked = longer(self.unasked)
        self.pods_allowed, self.pod_count = longer(self.pods_allowed), longer(self.pod_count)
        for column in self._columns.values():
            column.codes = longer(column.codes, -1)
        self.cells = self._cells()
        self._start_over()

    def _cells(self) -> Cells:
        """Of the arrays that are the columns now."""

        def each(columns: NDArray[Any]) -> list[Any]:
            return [column.data for column in columns]

        return Cells(
            each(self.allocatable),
            each(self.per_unit),
            each(self.requested),
            each(self.unasked),
            self.pods_allowed.data,
            self.pod_count.data,
        )


def range_of(values: Floats, rows: Mask) -> tuple[float, float]:
    """The least and the most of some rows; the least is more than the most where there are none."""
    end = len(rows) - int(rows[::-1].argmax())  # behind it rows are free, mostly
    found = values[:end] if rows[:end].all() else values[rows]
    return float(found.min(initial=np.inf)), float(found.max(initial=-np.inf))
