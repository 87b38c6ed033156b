"""Volumes that carry a zone or a region as labels are used there alone, on nodes that say where they are."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod

REASON = "node(s) had no available volume zone"
# A volume's label → where a node may have it instead.
TOPOLOGY_LABELS = {
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
}
SEPARATOR = "__"  # between the zones of a volume in several


class VolumeZone(PodFilter):
    name = "VolumeZone"
    helped_by = Event.NODE | Event.STORAGE
    for_claims = True

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._volumes = view.volumes

    def passes(self, pod: Pod) -> Mask | None:
        passed: Mask | None = None
        for volume in self._volumes.volumes_of(pod.namespace, pod.claims):
            for key, value in (volume["metadata"].get("labels") or {}).items():
                if key in TOPOLOGY_LABELS:
                    there = self._there(key, value.split(SEPARATOR))
                    passed = there if passed is None else passed & there
        return None if passed is None else passed | self._nowhere()

    def _there(self, key: str, values: list[str]) -> Mask:
        """The nodes with one of the values."""
        found = np.zeros(self.nodes.capacity, bool)
        missing = np.ones(self.nodes.capacity, bool)
        for label in (key, TOPOLOGY_LABELS[key]):
            column = self.nodes.column(label)
            codes = [column.code_of[value] for value in values if value in column.code_of]
            found |= missing & np.isin(column.codes, codes)
            missing &= column.codes < 0
        return found

    def _nowhere(self) -> Mask:
        """The nodes that say neither zone nor region: a cluster in one place needs no labels."""
        found = np.ones(self.nodes.capacity, bool)
        for label in TOPOLOGY_LABELS:
            found &= self.nodes.column(label).codes < 0
        return found

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        passed = self.passes(pod)
        if passed is not None:
            yield Rejected(REASON, ~passed, True)
