"""Nodes where the devices of the pod's ResourceClaims can be used, or where claims that have none yet can get some."""

from collections.abc import Iterator

import numpy as np

from raykube.scheduler.core.devices import Devices
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.nodes import Mask
from raykube.scheduler.core.plugin import PodFilter, Rejected, View
from raykube.scheduler.core.pod import Pod

UNALLOCATABLE = "cannot allocate all claims"
UNAVAILABLE = "resourceclaim not available on the node"


class DynamicResources(PodFilter):
    name = "DynamicResources"
    helped_by = Event.NODE | Event.DEVICES

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._table = view.devices
        self._judged: tuple[str, Devices | str] = "", ""

    @classmethod
    def concerns(cls, view: View) -> bool:
        return view.needs.wants_devices

    def prevents(self, pod: Pod) -> str:
        found = self._table.judge(pod)
        self._judged = pod.uid, found
        return found if isinstance(found, str) else ""

    def passes(self, pod: Pod) -> Mask | None:
        devices = self._devices(pod)
        if devices is None:
            return np.zeros(self.nodes.capacity, bool)
        passed: Mask = ~(devices.unavailable | devices.unallocatable)
        return passed

    def _devices(self, pod: Pod) -> Devices | None:
        """What `prevents` found a moment ago; None: nowhere."""
        if self._judged[0] != pod.uid:
            self.prevents(pod)
        found = self._judged[1]
        return None if isinstance(found, str) else found

    def rejections(self, left: Mask, pod: Pod) -> Iterator[Rejected]:
        devices = self._devices(pod)
        if devices is None:
            yield Rejected(str(self._judged[1]), left, True)
            return
        special = np.zeros(len(left), bool)
        for reason in sorted(set(devices.reasons.values())):
            rows = np.zeros(len(left), bool)
            rows[[row for row, why in devices.reasons.items() if why == reason]] = True
            special |= rows
            yield Rejected(reason.said(devices.names), left & rows, True)
        yield Rejected(UNALLOCATABLE, left & devices.unallocatable & ~special, True)
        yield Rejected(UNAVAILABLE, left & devices.unavailable & ~devices.unallocatable, True)
