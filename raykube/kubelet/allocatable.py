"""Holds all pods together to the node's capacity less what is reserved (--enforce-node-allocatable).

The group above the pods' is limited in memory, and weighs as much as the CPUs that are for pods. With --cgroup-root=/
it is that of any kubelet on the machine: only what nobody has set, or we did, is set.
"""

import asyncio
import json
import logging
from pathlib import Path

from raykube.client.events import EventRecorder
from raykube.kubelet.cgroups import PodCgroups
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sizes import GroupLimits
from raykube.kubelet.volumes.failure import words

log = logging.getLogger(__name__)

RETRY_S = 60.0


class NodeAllocatable:
    """`memo` is a file in which we find again what we have set."""

    def __init__(
        self, cgroups: PodCgroups, limits: GroupLimits, memo: Path, events: EventRecorder, node_reference: Object
    ) -> None:
        self._cgroups = cgroups
        self._limits = limits
        self._memo = memo
        self._events = events
        self._node_reference = node_reference

    async def run(self) -> None:
        """Returns when it is done; call once the driver of control groups is known."""
        while self._cgroups.limits_all:
            try:
                self._enforce()
            except OSError as error:
                message = f'Failed to update Node Allocatable Limits ["kubepods"]: {words(error)}'
                self._events.record(self._node_reference, "Warning", "FailedNodeAllocatableEnforcement", message)
                await asyncio.sleep(RETRY_S)
                continue
            message = "Updated Node Allocatable limit across pods"
            self._events.record(self._node_reference, "Normal", "NodeAllocatableEnforced", message)
            return

    def _enforce(self) -> None:
        ours = self._remembered()
        settings = self._cgroups.settings_of_all(self._limits)
        # Before it is set: else what a kubelet set that was killed here would be somebody else's.
        self._memo.write_text(json.dumps(sorted(ours | {one.value for one in settings})))
        for one in settings:
            there = one.path.read_text().strip()
            if there == one.unset or there in ours or there == one.value:
                one.path.write_text(one.value)
            else:
                log.warning("%s stays at %s, which somebody else has set", one.path, there)

    def _remembered(self) -> set[str]:
        """The values that we have set at some time."""
        try:
            return {str(value) for value in json.loads(self._memo.read_text())}
        except (OSError, ValueError, TypeError):
            return set()
