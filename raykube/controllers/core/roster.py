"""The pods of one ReplicaSet, kept up to date by what changes: counts, who goes first, whom it no longer selects.

Vocabulary: a **replica** is what is remembered of one pod. The **group** of a replica is the part of its deletion rank
that no clock and no neighbour moves: whole groups go or stay, and only within one of them pods are compared.

    groups     (assigned, phase, ready, cost)   → node → names of active pods
               (0, 0, 0, 0)                        ""     a b      go first
               (1, 2, 0, 0)                        n1     c
               (1, 2, 1, 0)                        n1     d e      of these those with most neighbours
                                                   n2     f
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from raykube.api.selectors import LabelSelector
from raykube.controllers.core import aspects, claims, kinds, pods
from raykube.controllers.core.indexes import controller_uid
from raykube.controllers.core.keeper import Keeper
from raykube.controllers.core.names import digest
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import Obj, View

Group = tuple[float, ...]
ASPECTS = aspects.LABELS | aspects.OWNERS | aspects.ANNOTATIONS | aspects.DELETION | aspects.NODE
ASPECTS |= aspects.PHASE | aspects.READY  # of a pod, all that is read here


class Replica(NamedTuple):
    """One pod as it was when it was looked at."""

    uid: str
    stray: bool = False  # owned, no longer selected, not being deleted
    counted: tuple[str, ...] = ()  # the sums that it is in; none: it is not active
    node: str = ""
    group: Group = ()
    available_at: float | None = None


def _basis(replica_set: Obj, selector: Obj) -> tuple[str, Obj, dict[str, str], int]:
    """All of a ReplicaSet that the counts depend on."""
    spec = replica_set["spec"]
    labels = ((spec.get("template") or {}).get("metadata") or {}).get("labels") or {}
    return uid_of(replica_set), selector, labels, int(spec.get("minReadySeconds") or 0)


class Roster(Keeper):
    """See the module's docstring. `refresh` before anything is read."""

    def __init__(self, view: View, replica_set: Obj, selector: Obj) -> None:
        self.uid = uid_of(replica_set)
        super().__init__(pod["metadata"]["name"] for pod in view.by_index(kinds.PODS, "controller", self.uid))
        self.namespace = str(replica_set["metadata"].get("namespace", ""))
        self.replicas: dict[str, Replica] = {}
        self.sums: Counter[str] = Counter()
        self.strays: dict[str, None] = {}
        self.members = 0  # a number that says which pods there are: whoever comes or goes makes it another one
        self.nodes: Counter[str] = Counter()  # active pods on each node; "" are those that are not bound
        self._groups: dict[Group, dict[str, dict[str, None]]] = {}
        self._basis = _basis(replica_set, selector)
        _, _, labels, self._min_ready_s = self._basis
        self._selector = None if claims.is_empty(selector) else LabelSelector.from_object(selector)
        self._full = LabelSelector.from_object({"matchLabels": labels})
        self._labels: dict[str, str] | None = None  # those that were judged last, and how
        self._selects = self._labelled = False

    def is_for(self, replica_set: Obj, selector: Obj) -> bool:
        """Whether what was counted here still holds for `replica_set`."""
        return _basis(replica_set, selector) == self._basis

    def refresh(self, view: View, now: float) -> float | None:
        """Looks at the marked pods, and those whose time has come. Seconds until the next time, None for never."""
        for name in self._take(now):
            self._replace(name, self._look(view.get(kinds.PODS, self.namespace, name), now))
        return self._wait_s(now)

    def first_to_go(self, view: View, count: int, neighbours: Sequence["Roster"], now: float) -> list[Obj]:
        """The `count` active pods of the lowest `pods.deletion_rank`; `neighbours`: whose pods count as such."""
        chosen: list[Obj] = []
        for group in sorted(self._groups):
            by_node = self._groups[group]
            if sum(map(len, by_node.values())) <= count - len(chosen):
                chosen += pods.named(view, self.namespace, chain.from_iterable(by_node.values()))
                continue
            crowds: dict[int, list[str]] = {}
            for node in by_node:
                crowds.setdefault(sum(roster.nodes[node] for roster in neighbours), []).append(node)
            for crowd in sorted(crowds, reverse=True):
                names = chain.from_iterable(by_node[node] for node in crowds[crowd])
                found = pods.named(view, self.namespace, names)
                left = count - len(chosen)
                if len(found) > left:
                    found = heapq.nsmallest(left, found, key=lambda pod: pods.deletion_order(pod, now))
                chosen += found
                if len(chosen) == count:
                    return chosen
        return chosen

    # -- one pod

    def _look(self, pod: Obj | None, now: float) -> Replica | None:
        """What is to be remembered of it; None of pods that are not the ReplicaSet's."""
        if pod is None or controller_uid(pod) != self.uid:
            return None
        uid, labels = uid_of(pod), claims.labels_of(pod)
        if labels is not self._labels:  # as those of nearly all its pods are (client/core/sharing)
            self._labels = labels
            self._selects = self._selector is not None and self._selector.matches(labels)
            self._labelled = self._full.matches(labels)
        if not self._selects:
            return Replica(uid, stray=self._selector is not None and not pods.is_terminating(pod))
        if not pods.is_active(pod):
            return Replica(uid)
        wait_s = pods.available_in(pod, self._min_ready_s, now)
        return Replica(
            uid,
            counted=_SUMS[self._labelled, wait_s is not None, wait_s == 0],
            node=pods.node_name(pod),
            group=pods.deletion_group(pod),
            available_at=now + wait_s if wait_s else None,
        )

    def _replace(self, name: str, replica: Replica | None) -> None:
        before = self.replicas.pop(name, None)
        if before is not None:
            self._count(name, before, -1)
        if (before.uid if before else None) != (replica.uid if replica else None):
            for each in (before, replica):
                self.members ^= digest(each.uid) if each else 0
        if replica is None:
            return
        self.replicas[name] = replica
        self._count(name, replica, 1)
        if replica.available_at is not None:
            self._mark_at(name, replica.available_at)

    def _count(self, name: str, replica: Replica, sign: int) -> None:
        if replica.stray:
            self.strays.pop(name, None)
            if sign > 0:
                self.strays[name] = None
        if not replica.counted:
            return
        for name_of_sum in replica.counted:
            self.sums[name_of_sum] += sign
        self.nodes[replica.node] += sign
        by_node = self._groups.setdefault(replica.group, {})
        if sign > 0:
            by_node.setdefault(replica.node, {})[name] = None
            return
        del by_node[replica.node][name]
        if not by_node[replica.node]:
            del by_node[replica.node]
            if not by_node:
                del self._groups[replica.group]
        if not self.nodes[replica.node]:
            del self.nodes[replica.node]


_SUMS = {
    (labelled, ready, available): (
        "replicas",
        *(["fullyLabeledReplicas"] if labelled else ()),
        *(["readyReplicas"] if ready else ()),
        *(["availableReplicas"] if available else ()),
    )
    for labelled in (False, True)
    for ready in (False, True)
    for available in (False, True)
}
