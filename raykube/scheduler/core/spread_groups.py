"""The groups that classes spread over, and which placed pods are in them.

A group is made when a class first asks for it, by one look at the pods that may be in it: those of its owner, or of its
namespace. From then on every pod that comes and goes is counted in the groups that mean it.
"""

from collections import defaultdict

from raykube.scheduler.core.nodes import NodeTable
from raykube.scheduler.core.placed import Placed
from raykube.scheduler.core.requirements import Constraint
from raykube.scheduler.core.spread import Group, GroupKey, group_key

Members = defaultdict[str, dict[str, Placed]]


class SpreadGroups:
    """All groups; changed by the methods only."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._by_namespace: Members = defaultdict(dict)
        self._by_owner: Members = defaultdict(dict)
        self._groups: dict[GroupKey, Group] = {}
        self._selecting: dict[str, list[Group]] = {}  # groups of a selector, by namespace

    # Who is there

    def add(self, placed: Placed) -> None:
        pod = placed.pod
        self._by_namespace[pod.namespace][pod.uid] = placed
        if pod.owner:
            self._by_owner[pod.owner][pod.uid] = placed

    def remove(self, placed: Placed) -> None:
        pod = placed.pod
        _drop(self._by_namespace, pod.namespace, pod.uid)
        if pod.owner:
            _drop(self._by_owner, pod.owner, pod.uid)

    # Who counts

    def enter(self, placed: Placed) -> None:
        """Counts a pod in its groups; one that terminates is in none."""
        pod = placed.pod
        if pod.terminating:
            return
        group = self._groups.get(("owner", pod.owner)) if pod.owner else None
        if group is not None:
            _join(placed, group)
        for group in self._selecting.get(pod.namespace, ()):
            if group.matches(pod.labels):
                _join(placed, group)

    def leave(self, placed: Placed) -> None:
        for group in placed.groups:
            group.count(placed.row, -1)
        placed.groups = ()

    # Groups

    def of(self, constraint: Constraint, namespace: str) -> Group:
        """The group that a constraint counts; a new one counts the pods that are there."""
        key = group_key(constraint, namespace)
        group = self._groups.get(key)
        if group is not None:
            return group
        group = self._groups[key] = Group(constraint, namespace, self._nodes.capacity)
        if constraint.owner:
            members = self._by_owner.get(constraint.owner, {})
        else:
            members = self._by_namespace.get(namespace, {})
            self._selecting.setdefault(namespace, []).append(group)
        for placed in members.values():
            if not placed.pod.terminating and group.matches(placed.pod.labels):
                placed.groups = tuple(one for one in placed.groups if not one.dropped)
                _join(placed, group)
        return group

    def keep(self, used: set[int]) -> None:
        """Forgets the groups whose ids are not used any more. Pods let go of them when they come into another."""
        gone = [key for key, group in self._groups.items() if id(group) not in used]
        if not gone:
            return
        for key in gone:
            self._groups.pop(key).drop()
        for namespace, groups in list(self._selecting.items()):
            self._selecting[namespace] = [group for group in groups if not group.dropped]


def _join(placed: Placed, group: Group) -> None:
    group.count(placed.row, 1)
    placed.groups = (*placed.groups, group)


def _drop(index: Members, key: str, uid: str) -> None:
    members = index[key]
    del members[uid]
    if not members:
        del index[key]
