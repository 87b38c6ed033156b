"""Nodes where the volumes of the pod's claims can be used, or where claims that wait can get one."""

from collections.abc import Iterator

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.volumes import Storage

CONFLICT = "node(s) didn't match PersistentVolume's node affinity"
LOST = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
SHORT = "node(s) did not have enough free storage"
UNFOUND = "node(s) didn't find available persistent volumes to bind"


class VolumeBinding(PodFilter):
    name = "VolumeBinding"
    helped_by = Event.NODE | Event.STORAGE
    for_claims = True

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._volumes = view.volumes

    def _judge(self, pod: Pod) -> Storage | str:
        return self._volumes.judge(pod.uid, pod.namespace, pod.claims)

    def prevents(self, pod: Pod) -> str:
        self._judged = pod.uid, self._judge(pod)
        return self._judged[1] if isinstance(self._judged[1], str) else ""

    def passes(self, pod: Pod) -> Mask | None:
        storage = self._storage(pod)
        passed: Mask = ~(storage.conflict | storage.lost | storage.unfound | storage.short)
        return passed

    def _storage(self, pod: Pod) -> Storage:
        """What `prevents` found a moment ago."""
        uid, storage = self._judged
        assert uid == pod.uid and isinstance(storage, Storage), "prevents comes first"
        return storage

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        storage = self._storage(pod)
        yield Rejected(LOST, storage.lost, True)
        left = left & ~storage.lost
        yield Rejected(CONFLICT, left & storage.conflict, True)
        yield Rejected(UNFOUND, left & storage.unfound, True)
        yield Rejected(SHORT, left & storage.short, True)
