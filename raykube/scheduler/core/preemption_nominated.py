"""Pods that were promised a node (`status.nominatedNodeName`), whose victims may still be on their way out.

For a pod of lower or equal priority the promised room is taken; for one of higher priority it is free, and so it is for
the pod itself. What the API says counts when it differs from what it said before: an event that is older than our own
decision does not undo it. Promised pods count by their resources and ports, not as company for affinity and spreading.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from raykube.scheduler.core.nodes import ABSENT, Ints, Mask, NodeTable
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.preemption_ranks import Use, Uses

NONE = -1


class Nominations:
    """Promises by pod."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._uses = Uses(nodes)
        self._pods: dict[str, tuple[Pod, str]] = {}
        self._on: dict[str, dict[str, Pod]] = {}  # by node, also of nodes that are not known
        self._rows: dict[str, int] = {}  # of pods that are counted
        self._said: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._pods)

    def on_pod(self, pod: Pod) -> None:
        """A pending pod as the API has it."""
        if pod.nominated != self._said.get(pod.uid, ""):
            self._said[pod.uid] = pod.nominated
            self.set(pod, pod.nominated)
        elif pod.uid in self._pods and self._pods[pod.uid][0].needs is not pod.needs:
            self.set(pod, self._pods[pod.uid][1])

    def set(self, pod: Pod, node: str) -> None:
        """Promises a node, or none ("")."""
        self.take(pod.uid)
        if node:
            self._pods[pod.uid] = pod, node
            self._on.setdefault(node, {})[pod.uid] = pod
            self._count(pod, node)

    def release(self, uid: str) -> bool:
        """The pod is bound or gone; whether it had a promise."""
        self._said.pop(uid, None)
        return uid in self._pods and bool(self.take(uid))

    def node_of(self, uid: str) -> str:
        found = self._pods.get(uid)
        return found[1] if found is not None else ""

    def row_of(self, uid: str) -> int:
        """The row of a promised node that is known, or NONE."""
        return self._rows.get(uid, NONE)

    def on(self, node: str) -> list[Pod]:
        return list(self._on.get(node, {}).values())

    def on_node(self, name: str) -> None:
        """A node came: promises of it count."""
        for pod in self._on.get(name, {}).values():
            if pod.uid not in self._rows:
                self._count(pod, name)

    def on_node_gone(self, name: str) -> None:
        for pod in self._on.get(name, {}).values():
            self._uncount(pod)

    def concerns(self, pod: Pod) -> bool:
        """Whether a promise narrows or widens the pod's choice."""
        return bool(pod.nominated or (self._pods and self._uses.from_(pod.priority)))

    def reserved(self, pod: Pod) -> tuple[Ints, Ints] | None:
        """What is promised to others of the pod's priority and above: amounts by resource and row, pods by row."""
        uses = self._uses.from_(pod.priority)
        own = self._rows.get(pod.uid, NONE)
        if own != NONE and self._pods[pod.uid][0].priority < pod.priority:
            own = NONE  # it was raised meanwhile, and its promise is not among them
        if not uses or (own != NONE and sum(use.total for use in uses) == 1):
            return None
        requested = np.sum([use.requested for use in uses], axis=0)
        pods = np.sum([use.pods for use in uses], axis=0)
        if own != NONE:
            for name, needed in self._pods[pod.uid][0].needs.resources:
                index = self._nodes.index_of(name)
                if index != ABSENT:
                    requested[index, own] -= needed
            pods[own] -= 1
        return requested, pods

    def all_reserved(self) -> tuple[Ints, Ints]:
        """All that is promised, as in `reserved`."""
        uses = list(self._uses.by_priority.values())
        nothing = Use(self._nodes)
        requested = np.sum([use.requested for use in (nothing, *uses)], axis=0)
        return requested, np.sum([use.pods for use in (nothing, *uses)], axis=0)

    def room(self, pod: Pod) -> Mask:
        """The rows where the pod fits beside what is promised to others, as far as resources and ports say."""
        nodes = self._nodes
        reserved = self.reserved(pod)
        if reserved is None:
            return np.ones(nodes.capacity, bool)
        requested, pods = reserved
        fits: Mask = nodes.pod_count + pods < nodes.pods_allowed
        for name, needed in pod.needs.resources:
            index = nodes.index_of(name)
            if index < len(requested):
                fits &= needed <= nodes.allocatable[index] - nodes.requested[index] - requested[index]
        fits |= pods == 0
        if pod.needs.host_ports:
            for row, other in self._rivals(pod):
                fits[row] &= not clash(pod, other)
        return fits

    @contextmanager
    def beside(self, pod: Pod) -> Iterator[None]:
        """Within, the node table has what is promised to others as if they ran: to ask why the pod does not fit.

        Nobody may catch up with the table meanwhile; its log does not show it.
        """
        nodes, reserved = self._nodes, self.reserved(pod)
        if reserved is None:
            yield
            return
        requested, pods = reserved
        kinds = len(requested)
        rivals = list(self._rivals(pod)) if pod.needs.host_ports else []
        nodes.requested[:kinds] += requested
        nodes.pod_count += pods
        for row, other in rivals:
            nodes.ports.setdefault(row, Counter()).update(other.needs.host_ports)
        try:
            yield
        finally:
            nodes.requested[:kinds] -= requested
            nodes.pod_count -= pods
            for row, other in rivals:
                nodes.ports[row].subtract(other.needs.host_ports)
                nodes.ports[row] = +nodes.ports[row]

    def _rivals(self, pod: Pod) -> Iterator[tuple[int, Pod]]:
        """Others of the pod's priority and above that were promised a row, and want ports."""
        for uid, row in self._rows.items():
            other = self._pods[uid][0]
            if uid != pod.uid and other.priority >= pod.priority and other.needs.host_ports:
                yield row, other

    def _count(self, pod: Pod, node: str) -> None:
        row = self._nodes.rows.get(node)
        if row is not None and self._nodes.live[row]:
            self._rows[pod.uid] = row
            self._uses.count(pod.priority, pod.needs, row, 1)
            self._nodes.touch(row, node_changed=False)

    def _uncount(self, pod: Pod) -> None:
        row = self._rows.pop(pod.uid, None)
        if row is not None:
            self._uses.count(pod.priority, pod.needs, row, -1)
            self._nodes.touch(row, node_changed=False)

    def take(self, uid: str) -> str:
        """Breaks the promise; the node that was promised, or ""."""
        found = self._pods.pop(uid, None)
        if found is None:
            return ""
        pod, node = found
        self._uncount(pod)
        del self._on[node][uid]
        if not self._on[node]:
            del self._on[node]
        return node


def clash(pod: Pod, other: Pod) -> bool:
    """Whether two pods want the same port of one node."""
    everywhere = "0.0.0.0"
    return any(
        a.port == b.port and a.protocol == b.protocol and (a.ip == b.ip or everywhere in (a.ip, b.ip))
        for a in pod.needs.host_ports
        for b in other.needs.host_ports
    )
