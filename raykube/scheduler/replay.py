"""A recorded watch stream, scheduled anew: the real queue and the real core, with another configuration or version.

Pods that come without a node are decided on in simulated time, as the recording's seconds pass; where they went then is
not told to the scheduler. All else is as it was: nodes come and go, and pods end or are deleted, when they did in the
recording. Pods that this scheduler evicts are gone for good, as no controller is there to make them anew.
"""

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from raykube.base.backoff import Backoff
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.configuration import Settings
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import NOTHING, Event
from raykube.scheduler.core.gangs import Gang
from raykube.scheduler.core.intake import CLAIMS, DEVICES, STORAGE, Intake
from raykube.scheduler.core.outcomes import Outcome
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.queue import Pending, PodQueue
from raykube.scheduler.core.replayed_claims import ReplayedClaims
from raykube.scheduler.recording import Moment, Recording
from raykube.scheduler.service import BATCH_MAX, TICK_S

Object = dict[str, Any]
STORED = {(resource.api_version, resource.kind): take for resource, take in STORAGE.items()}
DEVICE_KINDS = {(resource.api_version, resource.kind): take for resource, take in DEVICES.items()}


def as_recorded(recording: Recording) -> list[Outcome]:
    """What the scheduler that ran then did."""
    found: dict[str, Outcome] = {}
    there: set[str] = set()  # pods that came with their node
    for moment in recording.moments:
        obj = moment.object
        if obj["kind"] != "Pod" or moment.type == "DELETED":
            continue
        metadata, node = obj["metadata"], obj["spec"].get("nodeName") or ""
        uid = metadata["uid"]
        one = found.get(uid)
        if one is None:
            if node or uid in there:
                there.add(uid)
                continue
            one = found[uid] = Outcome(metadata["namespace"], metadata["name"], uid, moment.at)
        if node and not one.node:
            one.node, one.placed, one.why = node, moment.at, ""
        for condition in (obj.get("status") or {}).get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                one.why = condition.get("message", "")
    return list(found.values())


class Replay:
    """One scheduler over one recording: `run` → what became of each pod that came without a node."""

    def __init__(self, settings: Settings, gang_patience_s: float = 30.0) -> None:
        self._cluster = Cluster(settings.profiles, gang_patience_s)
        self._queue = PodQueue(Backoff(settings.backoff_initial_s, settings.backoff_max_s))
        self._intake = Intake(self._cluster, self._queue, {profile.name for profile in settings.profiles})
        self._claims = ReplayedClaims(self._cluster.devices)
        self._outcomes: dict[str, Outcome] = {}
        self._objects: dict[str, Object] = {}  # pods to decide on, as they are now
        self._now = 0.0
        self._began = 0.0

    def run(self, recording: Recording) -> list[Outcome]:
        self._began = recording.began
        for at, moments in groupby(recording.moments, key=lambda one: one.at):
            self._pass_time(at)
            self._take_in(moments)
        self._decide()
        return list(self._outcomes.values())

    # Time

    def _pass_time(self, until: float) -> None:
        """Decides on what is ready before that moment; first on what came with the last one."""
        self._decide()
        while True:
            ready = self._queue.next_ready_at()
            tick = (self._now // TICK_S + 1) * TICK_S
            at = tick if ready is None else min(max(ready, self._now), tick)
            if at >= until:
                break
            self._set_time(at)
            if at == tick:
                self._tick()
            self._decide()
        self._set_time(until)

    def _set_time(self, now: float) -> None:
        self._now = now
        self._cluster.deadlines.now = self._wall

    @property
    def _wall(self) -> float:
        return self._began + self._now

    def _tick(self) -> None:
        self._on_event(self._intake.on_tick(self._now))
        self._queue.on_tick(self._now)

    # What came

    def _on_event(self, event: Event) -> None:
        if event:
            self._queue.on_event(event, self._now)

    def _take_in(self, moments: Iterable[Moment]) -> None:
        for _, kind, obj in moments:
            new = None if kind == "DELETED" else obj
            self._on_event(self._on_pod(obj, new) if obj["kind"] == "Pod" else self._on_other(obj, new))
        self._on_event(self._intake.device_news(self._now))
        self._intake.wake_decided(self._now)

    def _on_other(self, obj: Object, new: Object | None) -> Event:
        intake, metadata = self._intake, obj["metadata"]
        take = STORED.get((obj["apiVersion"], obj["kind"]))
        if take is not None:
            return intake.on_storage(take, metadata, new)
        take_devices = DEVICE_KINDS.get((obj["apiVersion"], obj["kind"]))
        if take_devices is not None:
            if obj["kind"] == CLAIMS.kind:
                new = self._claims.take(new, metadata["uid"], self._now)
            return intake.on_devices(take_devices, metadata, new, self._now)
        if obj["kind"] == "Node":
            return intake.on_node(metadata, new)
        if obj["kind"] == "Namespace":
            return intake.on_namespace(metadata, new)
        if obj["kind"] == "PodDisruptionBudget":
            intake.on_budget(metadata, new)
        elif obj["kind"] == "PodGroup":
            intake.on_group(metadata, new, self._now)
        return NOTHING

    def _on_pod(self, obj: Object, new: Object | None) -> Event:
        uid = obj["metadata"]["uid"]
        known = self._outcomes.get(uid)
        if known is None and new is not None and not obj["spec"].get("nodeName"):
            known = self._outcomes[uid] = Outcome(obj["metadata"]["namespace"], obj["metadata"]["name"], uid, self._now)
        if known is not None:
            if known.evicted:
                return NOTHING
            obj = _on_node(obj, known.node)
        if new is None or obj["spec"].get("nodeName"):
            self._objects.pop(uid, None)
        else:
            self._objects[uid] = obj
        return self._intake.on_pod_gone(uid) if new is None else self._intake.on_pod(obj, self._now, self._wall)

    # Decisions

    def _decide(self) -> None:
        while batch := PodQueue.by_class(self._queue.pop(BATCH_MAX, self._now)):
            left = {pending.pod.uid: pending for pending in batch}
            counted = False
            for pending in batch:
                if left.pop(pending.pod.uid, None) is not None and self._queue.get(pending.pod.uid) is pending:
                    counted |= self._decide_on(pending, left)
            if counted:
                self._on_event(Event.POD_CHANGED)

    def _decide_on(self, pending: Pending, left: dict[str, Pending]) -> bool:
        """Whether that matters to other pods' spreading or affinity."""
        cluster, pod = self._cluster, pending.pod
        gang = None if pod.gang is None else cluster.gangs.gang(pod.gang)
        if isinstance(gang, Gang):
            return self._decide_on_gang(gang, pending, left)
        if isinstance(gang, str):
            self._reject(pending, Diagnosis(gang, frozenset(), NOTHING), tried=False)
            return False
        if pending.due <= self._now:
            cluster.deadlines.age(pod)
        found = cluster.schedule(pod)
        if isinstance(found, Placement):
            self._bind(pending, found)
            return found.counted
        self._reject(pending, found)
        if cluster.deadlines.hopeless(pod):
            self._queue.without_deadline(pending)
        return False

    def _decide_on_gang(self, gang: Gang, first: Pending, left: dict[str, Pending]) -> bool:
        members = self._queue.gather(first, self._cluster.gangs.waiting(gang.key), left)
        since = min(one.added_at for one in members)
        found = self._cluster.gang_placing.place(gang, [one.pod for one in members], self._now, since)
        self._on_event(self._intake.freed())
        for pending, one in zip(members, found, strict=True):
            if isinstance(one, Placement):
                self._bind(pending, one)
            else:
                self._reject(pending, one)
        return any(isinstance(one, Placement) and one.counted for one in found)

    def _bind(self, pending: Pending, found: Placement) -> None:
        """As if the API had said so at once."""
        uid = pending.pod.uid
        one = self._outcomes[uid]
        one.node, one.placed, one.why = found.node, self._now, ""
        self._queue.remove(uid)
        self._cluster.on_settled(uid)
        self._claims.grant(found.reservations)
        self._cluster.on_pod(self._cluster.read_pod(_on_node(self._objects.pop(uid), found.node)))

    def _reject(self, pending: Pending, found: Diagnosis, tried: bool = True) -> None:
        one = self._outcomes[pending.pod.uid]
        one.why = found.message
        self._queue.on_unschedulable(pending, found, self._now, tried)
        if found.eviction is None:
            return
        for pod in found.eviction.cleared:
            self._queue.wake(pod.uid, self._now)
        for victim in found.eviction.victims:
            one.evicts.append(f"{victim.namespace}/{victim.name}")
            self._evict(victim)
        self._on_event(Event.POD_GONE)
        self._queue.wake(pending.pod.uid, self._now)

    def _evict(self, victim: Pod) -> None:
        """It is gone, whatever the recording says of it from now on."""
        gone = self._outcomes.setdefault(
            victim.uid, Outcome(victim.namespace, victim.name, victim.uid, self._now, victim.node)
        )
        gone.evicted = True
        self._cluster.on_pod_gone(victim.uid)


def _on_node(obj: Object, node: str) -> Object:
    """The pod as it would be, had this scheduler had its way."""
    spec = {key: value for key, value in obj["spec"].items() if key != "nodeName"}
    return obj | {"spec": spec | {"nodeName": node} if node else spec}
