"""What is used of the nodes, in the form in which classes ask for it: kept for all of them from the node table's log.

    free     allocatable - requested, by resource and row
    used     the part of the allocatable that is requested, 1 at most
    small    the same with what containers count as that ask for nothing; cpu and memory only
    apart    how far the used parts of cpu and memory are from each other
    has_room fewer pods than the node takes

A class of one pod is all about a few additions of whole columns: what they have in common is done once, for the rows
that changed.
"""

import numpy as np

from raykube.scheduler.core.nodes import Floats, Ints, Mask, NodeTable

ROWS_MAX = 64  # from so many changed rows on all of them at once cost less


class Shares:
    """The columns; call `catch_up` before reading them, and write none."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._epoch = -1
        self._read = 0
        self.free: Ints = np.zeros((0, 0), np.int64)
        self.used: Floats = np.zeros((0, 0))
        self.small: Floats = np.zeros((2, 0))
        self.apart: Floats = np.zeros(0)
        self.has_room: Mask = np.zeros(0, bool)

    def catch_up(self) -> None:
        """Takes in what changed since the last time."""
        nodes = self._nodes
        log = nodes.log
        if self._epoch != nodes.epoch or len(self.free) != nodes.kinds or len(log) - self._read > ROWS_MAX:
            self._take_all()
        elif self._read != len(log):
            for row in {entry >> 1 for entry in log[self._read :]}:
                self._take(row)
        self._epoch, self._read = nodes.epoch, len(log)

    def _take_all(self) -> None:
        nodes = self._nodes
        kinds = nodes.kinds
        self.free = nodes.allocatable[:kinds] - nodes.requested[:kinds]
        self.used = np.minimum(nodes.requested[:kinds] * nodes.per_unit[:kinds], 1.0)
        self.small = np.minimum((nodes.requested[:2] + nodes.unasked[:2]) * nodes.per_unit[:2], 1.0)
        self.apart = np.abs(self.used[0] - self.used[1])
        self.has_room = nodes.pod_count < nodes.pods_allowed

    def _take(self, row: int) -> None:
        """One row, in plain Python: numpy's calls cost more than the arithmetic."""
        allocatable, per_unit, requested, unasked, pods_allowed, pod_count = self._nodes.cells
        for index in range(len(self.free)):
            asked, unit = requested[index][row], per_unit[index][row]
            self.free[index, row] = allocatable[index][row] - asked
            self.used[index, row] = min(asked * unit, 1.0)
            if index < len(self.small):
                self.small[index, row] = min((asked + unasked[index][row]) * unit, 1.0)
        self.apart[row] = abs(self.used.item(0, row) - self.used.item(1, row))
        self.has_room[row] = pod_count[row] < pods_allowed[row]
