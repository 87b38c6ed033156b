"""How many volumes of a CSI driver a node can have at once (CSINode): those of its pods, and the new pod's."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod

REASON = "node(s) exceed max volume count"


class NodeVolumeLimits(PodFilter):
    name = "NodeVolumeLimits"
    helped_by = Event.NODE | Event.POD_GONE | Event.STORAGE
    for_claims = True

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._volumes = view.volumes

    def passes(self, pod: Pod) -> Mask | None:
        limits = self._volumes.attachments.of_driver
        wanted: dict[str, set[str]] = {}
        for claim in pod.claims:
            driver, handle = self._volumes.driver_volume((pod.namespace, claim.name))
            if driver in limits:
                wanted.setdefault(driver, set()).add(handle)
        if not wanted:
            return None
        passed = np.ones(self.nodes.capacity, bool)
        for driver, handles in wanted.items():
            for node, limit in limits[driver].items():
                row = self.nodes.rows.get(node)
                if row is None or len(handles) + len(self._volumes.on_row.get(row, ())) <= limit:
                    continue  # there is room even if every claim there is another volume of this driver
                # A volume that is there already takes no second place.
                passed[row] &= len(handles | self._attached(row, driver)) <= limit
        return passed

    def _attached(self, row: int, driver: str) -> set[str]:
        """The volumes of a driver that the pods of a row use."""
        volumes = map(self._volumes.driver_volume, self._volumes.on_row.get(row, ()))
        return {handle for name, handle in volumes if name == driver}

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        passed = self.passes(pod)
        if passed is not None:
            yield Rejected(REASON, ~passed, False)
