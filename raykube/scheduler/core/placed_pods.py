"""All pods that use a row, bound or assumed, and what they count for in the tables that decisions look at."""

from collections import Counter

from raykube.scheduler.core.affinity import PodTerms, Terms
from raykube.scheduler.core.gangs import Gangs
from raykube.scheduler.core.interference import SlowdownModel
from raykube.scheduler.core.nodes import NodeTable
from raykube.scheduler.core.placed import Placed
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.preemption import Preemption
from raykube.scheduler.core.spread_groups import SpreadGroups
from raykube.scheduler.core.volumes import VolumeTable


class PlacedPods:
    """By uid."""

    def __init__(
        self,
        nodes: NodeTable,
        volumes: VolumeTable,
        slowdowns: SlowdownModel,
        groups: SpreadGroups,
        terms: PodTerms,
        preemption: Preemption,
        gangs: Gangs,
    ) -> None:
        self._nodes = nodes
        self._volumes = volumes
        self._slowdowns = slowdowns
        self._groups = groups
        self._terms = terms
        self._preemption = preemption
        self._gangs = gangs
        self._pods: dict[str, Placed] = {}
        self._priorities: Counter[int] = Counter()

    def get(self, uid: str) -> Placed | None:
        return self._pods.get(uid)

    def all(self) -> list[Placed]:
        return list(self._pods.values())

    def some_weaker(self, priority: int) -> bool:
        return any(other < priority for other in self._priorities)

    def place(self, pod: Pod, row: int, assumed: bool, since: float) -> Placed:
        assert pod.uid not in self._pods
        placed = Placed(pod, row, assumed, since=since, started=pod.started)
        self._pods[pod.uid] = placed
        self._groups.add(placed)
        self._priorities[pod.priority] += 1
        if self._preemption.ranks is not None:
            self._preemption.ranks.add(placed)
        if pod.gang is not None:
            self._gangs.count(pod.gang, 1, assumed)
        self.use(placed)
        return placed

    def remove(self, placed: Placed) -> None:
        pod = placed.pod
        del self._pods[pod.uid]
        self._groups.remove(placed)
        self._priorities[pod.priority] -= 1
        if not self._priorities[pod.priority]:
            del self._priorities[pod.priority]
        self._preemption.remove(placed)
        if pod.gang is not None:
            self._gangs.count(pod.gang, -1, placed.assumed)
        self.unuse(placed)

    def use(self, placed: Placed) -> None:
        """Counts the pod in all tables that filters and scores look at."""
        pod, row = placed.pod, placed.row
        self._nodes.use(row, pod.needs, 1)
        if pod.workload:
            self._slowdowns.place(pod.workload, row, 1)
        if pod.claims:
            self._volumes.use(pod.namespace, pod.claims, row, 1)
        placed.counted = self._terms.place(pod.needs, pod.labels, row)
        self._groups.enter(placed)

    def unuse(self, placed: Placed) -> None:
        """Takes the pod out of them."""
        pod = placed.pod
        self._groups.leave(placed)
        self._terms.remove(pod.needs, placed.row, placed.counted)
        self._nodes.use(placed.row, pod.needs, -1)
        if pod.workload:
            self._slowdowns.place(pod.workload, placed.row, -1)
        if pod.claims:
            self._volumes.use(pod.namespace, pod.claims, placed.row, -1)

    def follow(self, asked: list[Terms]) -> None:
        """Counts what a class asks for; a new tally counts the pods that are there."""
        for terms in self._terms.unfollowed(asked):
            pods = self.all()
            tally, matches = self._terms.follow(terms, [(p.pod.namespace, p.pod.labels, p.row) for p in pods])
            for placed, matched in zip(pods, matches, strict=True):
                if matched:
                    placed.counted = (*(one for one in placed.counted if not one.dropped), tally)
