"""Placing a gang: all of its pods at once, or as many as it needs, or none.

    1  each pod is placed as if alone; when enough are, all of them are bound in one step
    2  else all are taken back, and each may preempt: when enough find a place so, victims leave, and every pod of the
       gang is promised its node until they are gone
    3  else nothing is held, and the gang waits; unless it has waited for long (`_keep_room`)

Two gangs can never hold halves of what both need: nothing is held by a gang that does not fit as a whole, but by the
one that has waited longest, for which room is kept as it becomes free; for a while, as it may never be enough.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.gangs import PLUGIN, Gang, GroupKey
from raykube.scheduler.core.nodes import Ints
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.preemption import Eviction

if TYPE_CHECKING:
    from raykube.scheduler.core.cluster import Cluster, Placement

KEEP_MAX_S = 600.0  # then others have their turn, for as long


class GangPlacing:
    """Plans gangs on a cluster, and keeps room for one that has waited for long."""

    def __init__(self, cluster: "Cluster", patience_s: float) -> None:
        self._cluster = cluster
        self._patience_s = patience_s
        self._kept_for: GroupKey | None = None
        self._kept_rank: tuple[int, float] = (0, 0.0)
        self._kept_since = 0.0
        self._kept: set[str] = set()  # uids of its pods
        self._paused: dict[GroupKey, float] = {}  # gangs that had their turn, and until when they may not have another
        self._freed = False

    def place(self, gang: Gang, pods: list[Pod], now: float, since: float) -> "list[Placement | Diagnosis]":
        """A verdict for each pod: placements, if there are enough of them, else diagnoses alone.

        `since`: when the gang began to wait.
        """
        nominations = self._cluster.preemption.nominations
        promised = {pod.uid: node for pod in pods if (node := nominations.node_of(pod.uid))}
        needed = gang.minimum - gang.there
        found = self._try(pods, needed, preempts=False)
        placed = sum(not isinstance(one, Diagnosis) for one in found)
        if placed >= needed:
            self._release(gang.key)
            return found
        self._take_back(pods, found)
        for pod in pods:
            if pod.uid in promised:
                nominations.set(pod, promised[pod.uid])
        if not any(self._cluster.preemption.awaits_victims(pod) for pod in pods):
            evicting = self._evict(pods, needed)
            if evicting is not None:
                self._release(gang.key, keep=True)
                return evicting
        reason = next(one for one in found if isinstance(one, Diagnosis))
        most = self._most(pods)
        name = gang.key[1]
        if gang.there + most < gang.minimum:
            self._release(gang.key)
            text = (
                f'pod group "{name}" is larger than the cluster: it needs {gang.minimum} pods at once, '
                f"{gang.there + most} fit when nothing else runs"
            )
            return [replace(reason, message=text, plugins=frozenset((PLUGIN,)), helped_by=Event.NODE) for _ in pods]
        self._keep_room(gang, pods, now, since)
        text = f'pod group "{name}" needs {gang.minimum} pods at once, {gang.there + placed} fit: {reason.message}'
        helped_by = reason.helped_by
        for one in found:
            if isinstance(one, Diagnosis):
                helped_by |= one.helped_by
        reason = replace(reason, message=text, helped_by=helped_by, eviction=None)
        return [replace(reason, unpromised=bool(pod.nominated and not nominations.node_of(pod.uid))) for pod in pods]

    def _try(self, pods: list[Pod], needed: int, preempts: bool) -> "list[Placement | Diagnosis]":
        """Each pod's verdict; once enough can't be placed any more, the last one is that of the rest too."""
        found: list[Placement | Diagnosis] = []
        failed = 0
        for pod in pods:
            one = self._cluster.schedule(pod, preempts=preempts)
            found.append(one)
            failed += isinstance(one, Diagnosis) and one.eviction is None
            if len(pods) - failed < needed:
                found += [one] * (len(pods) - len(found))
                break
        return found

    def _take_back(self, pods: list[Pod], found: "list[Placement | Diagnosis]") -> None:
        for pod, one in zip(pods, found, strict=True):
            if not isinstance(one, Diagnosis):
                self._cluster.forget(pod.uid)

    def _evict(self, pods: list[Pod], needed: int) -> "list[Placement | Diagnosis] | None":
        """Verdicts with evictions that make enough pods fit; None, and nothing changed, when none do."""
        preemption = self._cluster.preemption
        if not any(self._cluster.outranks(pod) for pod in pods):
            for pod in pods:
                if pod.uid not in self._kept:
                    preemption.nominations.take(pod.uid)
            return None
        kept = {pod.uid: preemption.nominations.node_of(pod.uid) for pod in pods if pod.uid in self._kept}
        found = self._try(pods, needed, preempts=True)
        verdicts: list[Placement | Diagnosis] = []
        good = 0
        for pod, one in zip(pods, found, strict=True):
            if isinstance(one, Diagnosis):
                good += one.eviction is not None
                verdicts.append(one)
                continue
            good += 1
            self._cluster.forget(pod.uid)
            verdicts.append(_promise(one.node))
        if good < needed:
            for pod, one in zip(pods, verdicts, strict=True):
                assert isinstance(one, Diagnosis)
                if one.eviction is not None:
                    preemption.cancel(one.eviction)
                # A promise that does not help the whole gang is withdrawn.
                preemption.nominations.set(pod, kept.get(pod.uid, ""))
            return None
        for pod, one in zip(pods, verdicts, strict=True):
            if isinstance(one, Diagnosis) and one.eviction is not None:
                preemption.nominations.set(pod, one.eviction.node)
        return verdicts

    # How much there could be

    def _most(self, pods: list[Pod]) -> int:
        """How many of the pods at most fit on the cluster when nothing else runs: never too few.

        By row each class counts by itself; together they have what all nodes have.
        """
        nodes = self._cluster.nodes
        usable = np.zeros(nodes.capacity, bool)
        needs: dict[str, list[int]] = {}
        total = 0
        for _, alike in _by_class(pods):
            pod_class = self._cluster.pod_class(alike[0])
            pod_class.catch_up()
            usable |= pod_class.suitable
            room: Ints = nodes.pods_allowed.copy()
            for name, needed in alike[0].needs.resources:
                room = np.minimum(room, nodes.allocatable[nodes.index_of(name)] // needed)
                needs.setdefault(name, []).extend([needed] * len(alike))
            total += min(len(alike), int(room[pod_class.suitable].sum()))
        most = min(total, int(nodes.pods_allowed[usable].sum()))
        for name, amounts in needs.items():
            there = nodes.allocatable[nodes.index_of(name)][usable].sum()
            smallest_first = np.cumsum(np.sort(amounts))
            without = len(pods) - len(amounts)
            most = min(most, without + int(np.searchsorted(smallest_first, there, side="right")))
        return most

    # Room that is kept

    def expire(self, now: float) -> None:
        """Room is kept for so long at most, whoever else waits; then the gang pauses as long."""
        if self._kept_for is not None and now - self._kept_since >= KEEP_MAX_S:
            self._paused[self._kept_for] = now + KEEP_MAX_S
            self._release(self._kept_for)
        for key in [key for key, until in self._paused.items() if until <= now]:
            del self._paused[key]

    def freed(self) -> bool:
        """Whether room is no longer kept that was when this was last asked: others may fit now."""
        freed, self._freed = self._freed, False
        return freed

    def _keep_room(self, gang: Gang, pods: list[Pod], now: float, since: float) -> None:
        """Promises nodes to a gang that has waited for long, if no other one is before it."""
        self.expire(now)
        if now - since < self._patience_s or gang.key in self._paused:
            return
        rank = -max(pod.priority for pod in pods), since
        other = self._kept_for
        if other != gang.key:
            if other is not None and any(self._cluster.gangs.waiting(other)) and rank >= self._kept_rank:
                return
            self._release(other)
            self._kept_for, self._kept_rank, self._kept_since = gang.key, rank, now
        freed = self._freed or bool(self._kept)
        self._promise_rows(pods)
        nominations = self._cluster.preemption.nominations
        if gang.there + sum(nominations.row_of(pod.uid) >= 0 for pod in pods) < gang.minimum:
            self._release(gang.key)  # room for some of them is of no use to anybody
            self._freed = freed

    def _promise_rows(self, pods: list[Pod]) -> None:
        """Gives each pod the row that has most for it already; rows that were promised to the gang stay so.

        The large ones first, for which there are fewer rows.
        """
        cluster = self._cluster
        nodes, nominations = cluster.nodes, cluster.preemption.nominations
        for pod in sorted(pods, key=self._share, reverse=True):
            if nominations.row_of(pod.uid) >= 0:
                continue
            pod_class = cluster.pod_class(pod)
            pod_class.catch_up()
            # Beside what others were promised: else two gangs could each hold what the other waits for.
            requested, count = nominations.all_reserved()
            free = (nodes.pods_allowed - nodes.pod_count - count).astype(np.float64)
            fits = pod_class.suitable & (count < nodes.pods_allowed)
            for name, needed in pod.needs.resources:
                index = nodes.index_of(name)
                left = nodes.allocatable[index] - (requested[index] if index < len(requested) else 0)
                fits &= left >= needed
                free = np.minimum(free, (left - nodes.requested[index]) / needed)
            if not fits.any():
                continue
            nominations.set(pod, nodes.names[int(np.where(fits, free, -np.inf).argmax())])
            self._kept.add(pod.uid)

    def _share(self, pod: Pod) -> float:
        """What the pod needs, of what a node has at most."""
        nodes = self._cluster.nodes
        shares = (
            needed / max(1.0, float(nodes.allocatable[nodes.index_of(name)].max()))
            for name, needed in pod.needs.resources
        )
        return max(shares, default=0.0)

    def _release(self, key: GroupKey | None, keep: bool = False) -> None:
        """Keeps no room any more for a gang; with `keep` it has better promises."""
        if key is None or key != self._kept_for:
            return
        if not keep:
            for uid in self._kept:
                self._cluster.preemption.nominations.take(uid)
            self._freed |= bool(self._kept)
        self._kept_for = None
        self._kept.clear()


def _promise(node: str) -> Diagnosis:
    return Diagnosis(
        "waiting for the victims of its pod group to leave",
        frozenset((PLUGIN,)),
        Event.NODE | Event.POD_GONE,
        eviction=Eviction(node, (), ()),
    )


def _by_class(pods: list[Pod]) -> list[tuple[bytes, list[Pod]]]:
    found: dict[bytes, list[Pod]] = {}
    for pod in pods:
        found.setdefault(pod.needs.key, []).append(pod)
    return list(found.items())
