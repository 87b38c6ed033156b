"""What comes of an object that came, changed or went: a place in the queue or the cluster, and what it may help.

    pod without a node ──► PodQueue          all else ──► Cluster, and the Event that it may be to those that wait

The service feeds it from informers, a replay from a recording. `new` is the object as it is now, None when it is gone.
"""

from collections.abc import Callable, Collection
from typing import Any

from raykube.api.resources import Resource, builtin
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.devices import DeviceTable
from raykube.scheduler.core.events import NOTHING, Event
from raykube.scheduler.core.gangs import GroupKey, group_of
from raykube.scheduler.core.outline import Outline
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.profile import DEFAULT_NAME
from raykube.scheduler.core.queue import PodQueue
from raykube.scheduler.core.volumes import VolumeTable

Object = dict[str, Any]
Take = Callable[[VolumeTable, Object, Object | None], bool]
TakeDevices = Callable[[DeviceTable, Object, Object | None], None]

# Pods that ended use nothing and need nothing: they leave the copy as if deleted.
LIVING = "status.phase!=Succeeded,status.phase!=Failed"
STORAGE: dict[Resource, Take] = {
    builtin("v1", "PersistentVolumeClaim"): lambda table, meta, obj: table.set_claim(
        (meta["namespace"], meta["name"]), obj
    ),
    builtin("v1", "PersistentVolume"): lambda table, meta, obj: table.set_volume(meta["name"], obj),
    builtin("storage.k8s.io/v1", "StorageClass"): lambda table, meta, obj: table.set_class(meta["name"], obj),
    builtin("storage.k8s.io/v1", "CSINode"): lambda table, meta, obj: table.attachments.set_csi_node(meta["name"], obj),
    builtin("storage.k8s.io/v1", "CSIDriver"): lambda table, meta, obj: table.capacities.set_driver(meta["name"], obj),
    builtin("storage.k8s.io/v1", "CSIStorageCapacity"): lambda table, meta, obj: table.capacities.set_capacity(
        (meta["namespace"], meta["name"]), obj
    ),
}

CLAIMS = builtin("resource.k8s.io/v1", "ResourceClaim")
DEVICES: dict[Resource, TakeDevices] = {
    CLAIMS: lambda table, meta, obj: table.set_claim((meta["namespace"], meta["name"]), obj),
    builtin("resource.k8s.io/v1", "ResourceSlice"): lambda table, meta, obj: table.set_slice(meta["name"], obj),
    builtin("resource.k8s.io/v1", "DeviceClass"): lambda table, meta, obj: table.set_class(meta["name"], obj),
}


def device_news(devices: DeviceTable, queue: PodQueue, now: float) -> Event:
    """What devices may help; pods that wait for what becomes of just one claim are woken."""
    free, waiters = devices.news()
    for uid in waiters:
        queue.wake(uid, now)
    return Event.DEVICES if free else NOTHING


class Intake:
    """See the module's docstring. `names`: the profiles whose pods are this scheduler's."""

    def __init__(self, cluster: Cluster, queue: PodQueue, names: Collection[str]) -> None:
        self._cluster = cluster
        self._queue = queue
        self._names = names

    def on_pod(self, obj: Object, now: float, wall: float) -> Event:
        """A pod as it is now, or its Outline. `now`: on the queue's clock; `wall`: the same on that of deadlines."""
        cluster, queue = self._cluster, self._queue
        if cluster.on_status(obj):
            uid = obj["metadata"]["uid"]
            queue.remove(uid)
            cluster.on_settled(uid)
            return NOTHING
        if isinstance(obj, Outline):
            obj = obj.whole()
        pod = cluster.read_pod(obj)
        if pod.node or pod.ended:
            queue.remove(pod.uid)
            unpromised = cluster.on_settled(pod.uid)
            return cluster.on_pod(pod) | (Event.POD_GONE if unpromised else NOTHING)
        if self._is_ours(obj) and not pod.terminating:
            # A late event of a pod whose binding has succeeded: the next ones will show its node.
            if queue.get(pod.uid) is not None or not cluster.assumed(pod.uid):
                queue.add(pod, now, self._due(pod, now, wall))
                if cluster.on_waiting(pod) and pod.gang is not None:
                    self._wake_gang(pod.gang.group, now)
        else:
            queue.remove(pod.uid)
            if cluster.on_settled(pod.uid):
                return Event.POD_GONE
        return NOTHING

    def on_pod_gone(self, uid: str) -> Event:
        self._queue.remove(uid)
        freed = self._cluster.on_settled(uid)
        return Event.POD_GONE if self._cluster.on_pod_gone(uid) or freed else NOTHING

    def on_node(self, metadata: Object, new: Object | None) -> Event:
        if new is None:
            self._cluster.on_node_gone(metadata["name"])
            return Event.NODE_GONE
        return Event.NODE if self._cluster.on_node(new) else NOTHING

    def on_namespace(self, metadata: Object, new: Object | None) -> Event:
        labels = None if new is None else new["metadata"].get("labels") or {}
        return Event.POD_CHANGED if self._cluster.on_namespace(metadata["name"], labels) else NOTHING

    def on_storage(self, take: Take, metadata: Object, new: Object | None) -> Event:
        """One of the kinds in STORAGE, whose `take` it is."""
        return Event.STORAGE if take(self._cluster.volumes, metadata, new) else NOTHING

    def on_devices(self, take: TakeDevices, metadata: Object, new: Object | None, now: float) -> Event:
        """One of the kinds in DEVICES, whose `take` it is."""
        take(self._cluster.devices, metadata, new)
        return self.device_news(now)

    def device_news(self, now: float) -> Event:
        """After pods were taken in: what they were to have may be free."""
        return device_news(self._cluster.devices, self._queue, now)

    def on_budget(self, metadata: Object, new: Object | None) -> None:
        self._cluster.preemption.budgets.on_budget(metadata["namespace"], metadata["name"], new)

    def on_group(self, metadata: Object, new: Object | None, now: float) -> None:
        """A PodGroup; its pods may wait for just that."""
        key = metadata["namespace"], metadata["name"]
        if self._cluster.gangs.on_group(key, None if new is None else group_of(new)):
            self._wake_gang(key, now)

    def wake_decided(self, now: float) -> None:
        """Gangs of which the API has told what came of their pods may go on. After each batch of pods."""
        for key in self._cluster.decided():
            self._wake_gang(key, now)

    def on_tick(self, now: float) -> Event:
        """Now and then: what is kept for some time only ends."""
        self._cluster.slowdowns.expire(now)
        self._cluster.gang_placing.expire(now)
        return self.freed()

    def freed(self) -> Event:
        """Whether room that was kept for a gang is for all, since this was last asked."""
        return Event.POD_GONE if self._cluster.gang_placing.freed() else NOTHING

    def _wake_gang(self, key: GroupKey, now: float) -> None:
        for uid in self._cluster.gangs.waiting(key):
            self._queue.wake(uid, now)

    def _is_ours(self, obj: Object) -> bool:
        spec = obj["spec"]
        return spec.get("schedulerName", DEFAULT_NAME) in self._names and not spec.get("schedulingGates")

    def _due(self, pod: Pod, now: float, wall: float) -> float | None:
        """The deadline of a pod on the queue's clock."""
        if pod.deadline is None:
            return None
        self._cluster.deadlines.now = wall
        at = self._cluster.deadlines.urgency(pod)
        return None if at is None else now + at - wall
