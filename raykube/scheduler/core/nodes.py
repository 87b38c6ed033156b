"""The nodes as columns: one row per node, updated in place.

    row   live  taint_set  allocatable[cpu]  requested[cpu]  pod_count  label column "zone"
     0     1        0           8000              2100           12            0  (values: a, b)
     1     1        3           8000               300            3            1
     2     0        …           a free row, or a node that pods name but that is not known (yet)

Every change of a row is put in `log`: a reader remembers how far it has read and catches up on those rows alone. An
entry is row*2 for a change of what is used, row*2+1 for a change of the node itself. Labels become columns of codes
when somebody first asks for them.
"""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.requirements import CPU, MEMORY, HostPort, Requirements, amount
from raykube.scheduler.core.taints import TaintSets, taints_of

Object = dict[str, Any]
Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Mask = NDArray[np.bool_]

ROWS_MIN = 64
LOG_MAX = 65_536


class LabelColumn:
    """The values of one label as codes; -1 where a node does not have it."""

    def __init__(self, rows: int) -> None:
        self.codes: Codes = np.full(rows, -1, np.int32)
        self.code_of: dict[str, int] = {}

    def code(self, value: str) -> int:
        return self.code_of.setdefault(value, len(self.code_of))


class NodeTable:
    """All nodes. Readers use the columns directly and never write them."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.names: list[str] = []
        self.labels: list[dict[str, str]] = []
        self.count = 0  # live nodes
        self.resource_index: dict[str, int] = {CPU: 0, MEMORY: 1}
        self.live: Mask = np.zeros(ROWS_MIN, bool)
        self.unschedulable: Mask = np.zeros(ROWS_MIN, bool)
        self.taint_set: Codes = np.zeros(ROWS_MIN, np.int32)
        self.allocatable: Ints = np.zeros((2, ROWS_MIN), np.int64)
        self.requested: Ints = np.zeros((2, ROWS_MIN), np.int64)
        self.nonzero: Ints = np.zeros((2, ROWS_MIN), np.int64)
        self.pods_allowed: Ints = np.zeros(ROWS_MIN, np.int64)
        self.pod_count: Ints = np.zeros(ROWS_MIN, np.int64)
        self.taints = TaintSets()
        self.ports: dict[int, Counter[HostPort]] = {}
        self.log: list[int] = []
        self.revised = 0  # changes of nodes themselves, not of what is used
        self.epoch = 0  # raised when the log was cut or the columns grew: readers start over
        self._columns: dict[str, LabelColumn] = {}
        self._free: list[int] = []

    @property
    def capacity(self) -> int:
        return len(self.live)

    def touch(self, row: int, node_changed: bool) -> None:
        if len(self.log) >= LOG_MAX:
            self.log.clear()
            self.epoch += 1
        self.log.append(row * 2 + node_changed)
        self.revised += node_changed

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
        if changed:
            self.touch(row, node_changed=True)
        return changed

    def _set_allocatable(self, row: int, allocatable: dict[str, Any]) -> bool:
        for name in allocatable:
            if name != "pods":
                self.index_of(name)
        amounts = np.zeros(len(self.resource_index), np.int64)
        pods = 0
        for name, quantity in allocatable.items():
            if name == "pods":
                pods = amount(name, quantity)
            else:
                amounts[self.resource_index[name]] = amount(name, quantity)
        if self.pods_allowed[row] == pods and (self.allocatable[:, row] == amounts).all():
            return False
        self.pods_allowed[row] = pods
        self.allocatable[:, row] = amounts
        return True

    def remove_node(self, name: str) -> None:
        row = self.rows.get(name)
        if row is None or not self.live[row]:
            return
        self.live[row] = False
        self.count -= 1
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
        self.pods_allowed[row] = 0
        self._free.append(row)

    # What pods use

    def use(self, row: int, needs: Requirements, sign: int) -> None:
        """Adds (sign 1) or takes away (sign -1) one pod of a class."""
        requested = self.requested
        for name, needed in needs.resources:
            index = self.resource_index.get(name)
            if index is None:
                index = self.index_of(name)
                requested = self.requested
            requested[index, row] += sign * needed
        self.nonzero[0, row] += sign * needs.nonzero_cpu
        self.nonzero[1, row] += sign * needs.nonzero_memory
        self.pod_count[row] += sign
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
        """The row of a resource in `allocatable` and `requested`; a new one for a resource not seen before."""
        index = self.resource_index.get(resource)
        if index is None:
            index = self.resource_index[resource] = len(self.resource_index)
            blank = np.zeros((1, self.capacity), np.int64)
            self.allocatable = np.concatenate((self.allocatable, blank))
            self.requested = np.concatenate((self.requested, blank))
        return index

    def column(self, label: str) -> LabelColumn:
        column = self._columns.get(label)
        if column is None:
            column = self._columns[label] = LabelColumn(self.capacity)
            for row, labels in enumerate(self.labels):
                if label in labels:
                    column.codes[row] = column.code(labels[label])
        return column

    def _grow(self) -> None:
        more = self.capacity

        def longer(column: NDArray[Any], fill: int = 0) -> NDArray[Any]:
            return np.concatenate((column, np.full((*column.shape[:-1], more), fill, column.dtype)), axis=-1)

        self.live, self.unschedulable = longer(self.live), longer(self.unschedulable)
        self.taint_set = longer(self.taint_set)
        self.allocatable, self.requested = longer(self.allocatable), longer(self.requested)
        self.nonzero = longer(self.nonzero)
        self.pods_allowed, self.pod_count = longer(self.pods_allowed), longer(self.pod_count)
        for column in self._columns.values():
            column.codes = longer(column.codes, -1)
        self.log.clear()
        self.epoch += 1
