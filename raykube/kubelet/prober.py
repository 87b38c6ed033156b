"""Runs the probes of one pod's containers, a task for each, and keeps what they found.

A container that is not started has its startup probe run only; then liveness and readiness begin.
"""

import asyncio
import random
from collections.abc import Callable

from raykube.client.events import EventRecorder
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedPod
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.probes import KINDS, ProbeResults, Threshold, found_before
from raykube.kubelet.handlers import Handlers
from raykube.rpc.clock import SystemClock

NAMES = {"startupProbe": "Startup", "livenessProbe": "Liveness", "readinessProbe": "Readiness"}


class Prober:
    def __init__(self, handlers: Handlers, events: EventRecorder, changed: Callable[[], None]) -> None:
        self.results = ProbeResults()
        self._handlers = handlers
        self._events = events
        self._changed = changed
        self._clock = SystemClock()
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._adopted = True  # the first containers seen may be an earlier kubelet's

    def follow(
        self, pod: Object, observed: ObservedPod, pod_ip: str, terminating: bool, status: Object | None = None
    ) -> None:
        """Probes exactly the containers that run now. A pod that ends is probed for readiness only.

        What `status` (the API's) says of the first containers seen holds until their probes find something else: a
        kubelet that begins anew takes no pod out of service.
        """
        if self._adopted:
            for (container_id, kind), result in found_before(status or {}).items():
                # Of all kinds: a pod that ends has no startup probe run again, and is ready only if it has started.
                self.results.set(container_id, kind, result)
        wanted: set[tuple[str, str]] = set()
        for run in observed.running:
            spec = pods.container(pod, run.name)
            if spec is None:
                continue
            for kind in KINDS:
                if spec.get(kind) and not (terminating and kind != "readinessProbe"):
                    wanted.add((run.id, kind))
                    if (run.id, kind) not in self._tasks:
                        # There are results already where a kubelet, or a worker that failed, begins anew.
                        threshold = Threshold.of(kind, spec[kind], self.results.results.get((run.id, kind)))
                        self.results.set(run.id, kind, threshold.result)
                        work = self._probe(pod, spec, kind, threshold, run.id, pod_ip, run.started_at, self._adopted)
                        self._tasks[run.id, kind] = asyncio.get_running_loop().create_task(work)
        for key in [key for key in self._tasks if key not in wanted]:
            self._tasks.pop(key).cancel()
        running = {run.id for run in observed.running}
        for container_id in {container_id for container_id, _ in self.results.results} - running:
            self.results.forget(container_id)
        self._adopted = False

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _probe(
        self,
        pod: Object,
        spec: Object,
        kind: str,
        threshold: Threshold,
        container_id: str,
        pod_ip: str,
        started_at: float,
        adopted: bool,
    ) -> None:
        if kind == "startupProbe" and threshold.result:
            return  # it has started once, and for all
        probe = spec[kind]
        period_s = float(probe.get("periodSeconds") or 10)
        delay_s = started_at + float(probe.get("initialDelaySeconds") or 0) - self._clock.now()
        if adopted:
            # After a restart of the kubelet every probe would fall due at the same moment.
            delay_s = max(delay_s, random.uniform(0, min(period_s, 1.0)))
        await asyncio.sleep(max(delay_s, 0))
        while True:
            if kind != "startupProbe" and not self.results.started(spec, container_id):
                await asyncio.sleep(min(period_s, 0.5))
                continue
            begun = self._clock.monotonic()
            outcome = await self._handlers.run(
                probe, spec, container_id, pod_ip, float(probe.get("timeoutSeconds") or 1)
            )
            if not outcome.success or outcome.doubtful:
                reason, what = ("ProbeWarning", "warning") if outcome.success else ("Unhealthy", "failed")
                message = f"{NAMES[kind]} probe {what}: {outcome.message}"
                self._events.record(pod, "Warning", reason, message, pods.field_path(pod, spec["name"]))
            if threshold.on_result(outcome.success):
                self.results.set(container_id, kind, threshold.result)
                self._changed()
                if kind == "startupProbe" or (kind == "livenessProbe" and not threshold.result):
                    return  # decided for this run of the container
            # From one attempt's begin to the next's: a program that hangs is found no later for its time-outs.
            await asyncio.sleep(max(begun + period_s - self._clock.monotonic(), 0))
