"""What a pod's worker tells the API: the pod's status, and the restarts that are put off."""

import asyncio
import time

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedPod, State
from raykube.kubelet.core.plan import Plan, Waiting
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.probes import ProbeResults
from raykube.kubelet.core.status import Inputs, Verdict, held_back, pod_status
from raykube.kubelet.podresize import PodResize
from raykube.kubelet.tools import Tools


class PodReport:
    def __init__(self, tools: Tools, probes: ProbeResults, resizing: PodResize) -> None:
        self.started_at = time.time()
        self.held = False  # all of it has ended, which is not told before its devices are given back
        self._tools = tools
        self._probes = probes
        self._resizing = resizing
        self._messages: dict[str, str] = {}  # by container id: its termination message
        self._noted: set[tuple[str, str]] = set()  # back-offs that an event has told of

    def write(
        self,
        pod: Object,
        observed: ObservedPod,
        waiting: dict[str, Waiting],
        verdict: Verdict | None = None,
        terminating: bool = False,
        stopped: bool = False,
    ) -> "asyncio.Future[None]":
        """Done once the API has it. `waiting`, by container: why it is not started.

        A phase that is final is not told before the pod's devices are given back: their claim may be another's then.
        """
        inputs = Inputs(
            pod=pod | {"status": self._base_status(pod)},
            observed=observed,
            probes=self._probes,
            waiting=waiting,
            messages=self._termination_messages(pod, observed),
            verdict=verdict if terminating else None,
            stopped=stopped,
            started_at=self.started_at,
            allocated=self._resizing.allocated,
            applied=self._resizing.applied,
            resize=[] if terminating else self._resizing.conditions(pod, observed),
        )
        status = pod_status(inputs, self._tools.facts, time.time())
        ends = status["phase"] in pods.TERMINAL_PHASES and not pods.is_terminal(inputs.pod)
        self.held = ends and self._tools.devices.are_held(pod)
        if self.held:
            status = held_back(status, inputs.pod["status"])
        return self._tools.statuses.write(pod, status)

    def _base_status(self, pod: Object) -> Object:
        """The API's status with our own last write over it; conditions of others as they are in the API now."""
        api, own = pod.get("status") or {}, self._tools.statuses.known(pod)
        mine = {one["type"]: one for one in own.get("conditions") or ()}
        theirs = [one for one in api.get("conditions") or () if one["type"] not in mine]
        return {**api, **own, "conditions": [*mine.values(), *theirs]}

    def _termination_messages(self, pod: Object, observed: ObservedPod) -> dict[str, str]:
        known, self._messages = self._messages, {}
        for run in observed.containers:
            if run.state is State.EXITED:
                message = known.get(run.id)
                self._messages[run.id] = (
                    self._tools.containers.termination_message(pod, run) if message is None else message
                )
        return self._messages

    def note_back_off(self, pod: Object, found: Plan) -> None:
        """An event for each restart that is put off, once."""
        now_waiting = {(one.name, one.message) for one in found.waiting}
        for name, _ in now_waiting - self._noted:
            message = f"Back-off restarting failed container {name} in pod {pods.full_name(pod)}"
            self._tools.events.record(pod, "Warning", "BackOff", message, pods.field_path(pod, name))
        self._noted = now_waiting
