"""A claim that only one pod may use (ReadWriteOncePod) is not for a second one."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod

REASON = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"


class VolumeRestrictions(PodFilter):
    name = "VolumeRestrictions"
    helped_by = Event.POD_GONE | Event.STORAGE
    for_claims = True

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._volumes = view.volumes

    def passes(self, pod: Pod) -> Mask | None:
        if self._volumes.held_by_another(pod.namespace, pod.claims):
            return np.zeros(self.nodes.capacity, bool)
        return None

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        if self.passes(pod) is not None:
            yield Rejected(REASON, left, False)
