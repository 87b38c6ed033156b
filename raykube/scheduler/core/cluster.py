"""Everything the scheduler knows: nodes, the pods on them, spread groups and pod classes.

    on_node / on_pod      what the API says, as it comes
    schedule(pod)         → a Placement, at once assumed; or a Diagnosis
    forget(uid)           the binding failed: the assumption is taken back

An assumed pod counts like a bound one; when the API then says that it is bound to that node nothing changes. Pods that
ended (Succeeded, Failed) or are gone use nothing.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from raykube.scheduler.core import resizing
from raykube.scheduler.core.affinity import PodTerms
from raykube.scheduler.core.classes import PodClasses
from raykube.scheduler.core.deadlines import Deadlines
from raykube.scheduler.core.devices import DeviceTable, Grant
from raykube.scheduler.core.diagnosis import DEALLOCATED, STILL, Diagnosis, diagnose, judge, nowhere
from raykube.scheduler.core.events import NOTHING, Event
from raykube.scheduler.core.explanation import Elsewhere, Explanation, elsewhere, explain
from raykube.scheduler.core.filters.dynamic_resources import DynamicResources
from raykube.scheduler.core.gangs import Gangs, GroupKey
from raykube.scheduler.core.gangs_placing import GangPlacing
from raykube.scheduler.core.interference import Report, SlowdownModel
from raykube.scheduler.core.nodes import NodeTable
from raykube.scheduler.core.placed import Placed
from raykube.scheduler.core.placed_pods import PlacedPods
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.podclass import NONE, PodClass
from raykube.scheduler.core.podreader import ENDED, PodReader
from raykube.scheduler.core.preemption import Preemption
from raykube.scheduler.core.preemption_trials import Company
from raykube.scheduler.core.profile import Profile
from raykube.scheduler.core.spread_groups import SpreadGroups
from raykube.scheduler.core.volumes import Reservation, VolumeTable

Object = dict[str, Any]


class Placement(NamedTuple):
    node: str
    counted: bool  # some class spreads over, or looks for, pods like this one: its rejected pods may fit now
    reservations: tuple[Reservation | Grant, ...] = ()  # to be written before the pod is bound


class Cluster:
    """The state behind the decisions; changed by the methods only."""

    def __init__(self, profiles: Iterable[Profile] = (Profile(),), gang_patience_s: float = 30.0) -> None:
        self._profiles = {profile.name: profile for profile in profiles}
        self._first_profile = next(iter(self._profiles.values()))  # also for pods of other schedulers
        self.nodes = NodeTable()
        self.volumes = VolumeTable(self.nodes)
        self.devices = DeviceTable(self.nodes)
        self.slowdowns = SlowdownModel()
        self._reader = PodReader(self._profiles, self._first_profile)
        self._terms = PodTerms(self.nodes)
        groups = SpreadGroups(self.nodes)
        shared = self.slowdowns, groups, self._terms
        self._classes = PodClasses(self._profiles, self.nodes, self.volumes, self.devices, *shared)
        self.preemption = Preemption(self.nodes)
        self.gangs = Gangs()
        self._placed = PlacedPods(self.nodes, self.volumes, *shared, self.preemption, self.gangs)
        self.deadlines = Deadlines(self.nodes, self._on_row)
        self.gang_placing = GangPlacing(self, gang_patience_s)
        self._decided: set[GroupKey] = set()

    # What the API says

    def read_pod(self, obj: Object) -> Pod:
        return self._reader.read(obj)

    def profile_of(self, pod: Pod) -> Profile:
        return self._profiles[pod.needs.profile]

    def on_node(self, node: Object) -> bool:
        """A node as it is now; whether anything that matters to scheduling changed."""
        changed = self.nodes.set_node(node)
        if changed:
            self.preemption.nominations.on_node(node["metadata"]["name"])
        return changed

    def on_node_gone(self, name: str) -> None:
        self.preemption.nominations.on_node_gone(name)
        self.deadlines.on_node_gone(self.nodes.rows.get(name, NONE))
        self.nodes.remove_node(name)

    def on_slowdowns(self, node: str, slowdowns: Mapping[str, float], now: float) -> None:
        """What a node's kubelet says: how many times longer than alone its pods' work took, by uid."""
        row = self.nodes.rows.get(node)
        if row is None:
            return
        pods = ((self._placed.get(uid), slowdown) for uid, slowdown in slowdowns.items())
        reports = [Report(one.pod.workload, slowdown) for one, slowdown in pods if one is not None and one.row == row]
        self.slowdowns.observe(row, reports, now)

    def on_namespace(self, name: str, labels: dict[str, str] | None) -> bool:
        """A namespace as it is now (None: gone); whether that matters to terms which select namespaces by label."""
        if not self._terms.set_namespace(name, labels):
            return False
        self._classes.forget_diagnoses()
        return True

    def on_status(self, obj: Object) -> bool:
        """Takes in a pod of which at most the status changed since it was bound, or decided on; False: read it.

        Kubelets write a pod's status several times, and nothing of that matters here but its start and its end.
        """
        metadata = obj["metadata"]
        placed = self._placed.get(metadata["uid"])
        if placed is None:
            return False
        pod, status = placed.pod, obj.get("status") or {}
        same = (
            pod.generation != 0
            and metadata.get("generation") == pod.generation
            and self.nodes.names[placed.row] == obj["spec"].get("nodeName")
            and (metadata.get("labels") or {}) == pod.labels
            and ("deletionTimestamp" in metadata) == pod.terminating
            and status.get("phase") not in ENDED
            and not (pod.resizing or resizing.is_told_of(status))
        )
        if same:
            self._on_same(placed, status.get("startTime") or "")
        return same

    def _on_same(self, placed: Placed, started: str) -> None:
        """The API says what is known, but perhaps for its start."""
        if started and placed.started != started:
            placed.started = started
            self.preemption.on_started(placed)
        self._confirm(placed)
        self._release(placed.pod)

    def _release(self, pod: Pod) -> None:
        """Nothing is assumed for its claims any more."""
        if pod.claims:
            self.volumes.release(pod.uid)
        if pod.devices:
            self.devices.release(pod.uid)

    def on_pod(self, pod: Pod) -> Event:
        """A pod that has a node, as it is now; what that may help."""
        placed = self._placed.get(pod.uid)
        if pod.ended or not pod.node:
            gone = placed is not None and not placed.assumed and self.on_pod_gone(pod.uid)
            return Event.POD_GONE if gone else NOTHING
        if placed is None:
            self._place(pod)
            return Event.POD_CHANGED
        same = (
            self.nodes.names[placed.row] == pod.node
            and placed.pod.labels == pod.labels
            and placed.pod.terminating == pod.terminating
            and placed.pod.needs.resources == pod.needs.resources
        )
        if same:
            placed.pod.resizing = pod.resizing
            self._on_same(placed, pod.started)
            return NOTHING
        self._remove(placed)
        self._place(pod)
        if placed.assumed:
            self._on_bound(placed.pod)
        resized = placed.pod.needs.resources != pod.needs.resources
        return Event.POD_CHANGED | Event.POD_GONE if resized else Event.POD_CHANGED

    def on_pod_gone(self, uid: str) -> bool:
        """A pod is gone or ended; whether it used anything."""
        placed = self._placed.get(uid)
        if placed is None:
            return False
        self._remove(placed)
        if placed.assumed:
            self._on_bound(placed.pod)
        return True

    def _confirm(self, placed: Placed) -> None:
        """The API says so too."""
        if not placed.assumed:
            return
        placed.assumed = False
        if placed.pod.gang is not None:
            self.gangs.count(placed.pod.gang, -1, assumed=True)
            self.gangs.count(placed.pod.gang, 1, assumed=False)
        self._on_bound(placed.pod)

    def _on_bound(self, pod: Pod) -> None:
        """The API told what came of a decision."""
        if pod.gang is not None and not self.gangs.binding(pod.gang):
            self._decided.add(pod.gang.group)

    def decided(self) -> set[GroupKey]:
        """Gangs of which some pods were being bound, and none is any more; since this was last asked."""
        decided, self._decided = self._decided, set()
        return decided

    # Decisions

    def on_waiting(self, pod: Pod) -> bool:
        """A pod waits for a node; whether others of its gang may now be placed."""
        self.preemption.nominations.on_pod(pod)
        return self.gangs.on_waiting(pod.uid, pod.gang)

    def on_settled(self, uid: str) -> bool:
        """It waits no longer; whether that gave room to others."""
        self.gangs.on_settled(uid)
        if self.devices.waits:
            self.devices.on_settled(uid)
        unbooked = self.deadlines.settle(uid)
        return self.preemption.nominations.release(uid) or unbooked

    def schedule(self, pod: Pod, preempts: bool = True) -> Placement | Diagnosis:
        """Chooses the best node for `pod` and assumes it there; or says why there is none, and who leaves for it."""
        pod_class = self._classes.of(pod.needs)
        if pod_class.asked and pod_class.followed != self._terms.generation:
            self._placed.follow(pod_class.asked)
            pod_class.followed = self._terms.generation
        if pod.claims or pod.devices:
            return self._schedule_with_claims(pod, pod_class, preempts)
        promised = bool(self.deadlines.bookings) or self.preemption.nominations.concerns(pod)
        if pod_class.diagnoses and preempts and not promised:
            known = pod_class.diagnoses.get(self._like(pod, pod_class))
            if known is not None and known[0] == self._version():
                self.deadlines.on_waits(pod, pod_class)
                return known[1]
        row = self._pick_beside(pod, pod_class) if promised else pod_class.pick(pod)
        if row != NONE:
            return self._assume(pod, row)
        diagnosis = self._preempt(pod, pod_class, promised, preempts)
        self.deadlines.on_waits(pod, pod_class)
        if promised or not preempts or diagnosis.eviction is not None:
            return diagnosis
        pod_class.remember(self._like(pod, pod_class), self._version(), diagnosis)
        return diagnosis

    def _schedule_with_claims(self, pod: Pod, pod_class: PodClass, preempts: bool) -> Placement | Diagnosis:
        """As `schedule`; its claims are its own, so that no other pod's answer is any use."""
        for one in pod_class.pod_filters(pod):
            reason = one.prevents(pod)
            if reason:
                waits = any(not claim.claim for claim in pod.devices)
                return replace(nowhere(pod_class, one, reason), waits=waits)
        promised = bool(self.deadlines.bookings) or self.preemption.nominations.concerns(pod)
        row = self._pick_beside(pod, pod_class) if promised else pod_class.pick(pod)
        if row == NONE:
            return self._without_idle_claim(pod, self._preempt(pod, pod_class, promised, preempts))
        volumes = self.volumes.choose(pod.uid, pod.namespace, pod.claims, row)
        allocates = pod.devices and DynamicResources in self.profile_of(pod).filters
        devices = self.devices.choose(pod, row) if allocates else ()
        return self._assume(pod, row)._replace(reservations=(*volumes, *devices))

    def _without_idle_claim(self, pod: Pod, found: Diagnosis) -> Diagnosis:
        """Devices that only this pod may use are given back where they are what keeps it from other nodes."""
        if found.eviction is not None or DynamicResources.name not in found.plugins:
            return found
        idle = self.devices.idle(pod)
        return found if idle is None else replace(found, message=found.message.replace(STILL, DEALLOCATED), idle=idle)

    def _like(self, pod: Pod, pod_class: PodClass) -> Hashable:
        """Pods of a class for which this is equal get the same answer."""
        rank = pod.priority if self.outranks(pod) else None
        return rank, *(one.key(pod) for one in pod_class.pod_filters(pod))

    def _pick_beside(self, pod: Pod, pod_class: PodClass) -> int:
        """The best row beside what is promised and booked; first the one that was promised to the pod."""
        nominations = self.preemption.nominations
        room = nominations.room(pod)
        if self.deadlines.bookings:
            room &= self.deadlines.room(pod)
        own = nominations.row_of(pod.uid)
        if own != NONE and room[own]:
            alone = np.zeros(self.nodes.capacity, bool)
            alone[own] = True
            row = pod_class.pick(pod, alone)
            if row != NONE:
                return row
        return pod_class.pick(pod, room)

    def _preempt(self, pod: Pod, pod_class: PodClass, promised: bool, preempts: bool) -> Diagnosis:
        """Why the pod fits nowhere, with an eviction that makes it fit, or with the reason why there is none."""
        if not promised and not self.outranks(pod):
            return diagnose(pod_class, pod)
        nominations = self.preemption.nominations
        kept = ~self.deadlines.room(pod) if self.deadlines.bookings else None
        with nominations.beside(pod):
            may_preempt = pod_class.preempts and (self.outranks(pod) or nominations.concerns(pod))
            found = diagnose(pod_class, pod, kept, victims=may_preempt)
        if found.hopeless is None or not preempts or not may_preempt:
            return found
        self._follow_priorities()
        arguments = pod_class.view.arguments
        resources = pod_class.nothing_but_resources(pod)
        if resources is not None:
            return self.preemption.after(pod, found, found.hopeless, resources, None, arguments)

        def fits(row: int) -> bool:
            alone = np.zeros(self.nodes.capacity, bool)
            alone[row] = True
            return bool(nominations.room(pod)[row]) and pod_class.pick(pod, alone) == row

        def why(row: int) -> Counter[str]:
            pod_class.catch_up()
            with nominations.beside(pod):
                return judge(pod_class, pod, only=row).reasons

        company = Company(fits, why, self._placed.unuse, self._placed.use)
        return self.preemption.after(pod, found, found.hopeless, pod.needs.resources, company, arguments)

    def _assume(self, pod: Pod, row: int) -> Placement:
        self.preemption.nominations.release(pod.uid)
        self.deadlines.on_placed(pod)
        placed = self._placed.place(pod, row, assumed=True, since=self.deadlines.now)
        return Placement(self.nodes.names[row], bool(placed.groups or placed.counted or self._classes.forgot))

    def explain(self, pod: Pod) -> Explanation:
        """What each filter and score says of a pod that is not placed, on every node."""
        pod_class = self._classes.of(pod.needs)
        self._placed.follow(pod_class.asked)
        return explain(pod_class, pod)

    def elsewhere(self, pod: Pod) -> Elsewhere | None:
        """What each node has against a pod that is not placed; None when no node is asked."""
        pod_class = self._classes.of(pod.needs)
        self._placed.follow(pod_class.asked)
        return elsewhere(pod_class, pod)

    def _on_row(self, row: int) -> Iterable[Placed]:
        self._follow_priorities()
        return self.preemption.on_row(row)

    def _follow_priorities(self) -> None:
        if self.preemption.ranks is None:
            self.preemption.follow(self._placed.all())

    def assumed(self, uid: str) -> str:
        """The node where the pod is assumed or bound, or ""."""
        placed = self._placed.get(uid)
        return self.nodes.names[placed.row] if placed is not None else ""

    def forget(self, uid: str) -> bool:
        """Takes back an assumption, as if it had never been; a pod that the API said is bound stays."""
        placed = self._placed.get(uid)
        if placed is None or not placed.assumed:
            return False
        if placed.pod.devices:
            self.devices.withdraw(uid)
        self._remove(placed)
        return True

    def refused(self, uid: str) -> bool:
        """As `forget`, for a decision that was not carried out."""
        placed = self._placed.get(uid)
        if placed is None or not placed.assumed:
            return False
        self._remove(placed)
        self._on_bound(placed.pod)
        return True

    def outranks(self, pod: Pod) -> bool:
        """Whether a pod runs anywhere that would have to give way."""
        if pod.needs.never_preempts or not self._profiles[pod.needs.profile].preempts:
            return False
        return self._placed.some_weaker(pod.priority)

    def _version(self) -> tuple[int, int, int]:
        return self.nodes.epoch, len(self.nodes.log), self.preemption.budgets.revised

    # Bookkeeping

    def _place(self, pod: Pod) -> None:
        """Where the API says that it is."""
        self._placed.place(pod, self.nodes.row_of(pod.node), assumed=False, since=self.deadlines.now)

    def _remove(self, placed: Placed) -> None:
        self._placed.remove(placed)
        self._release(placed.pod)

    def pod_class(self, pod: Pod) -> PodClass:
        """The class of a pod, which knows its nodes."""
        return self._classes.of(pod.needs)
