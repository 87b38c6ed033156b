"""Carries decisions out: bindings in bulk, and conditions and events for pods that fit nowhere.

A binding is conditional on the revision of the pod that was decided on. Its result:
    200   bound; the assumption stays until the informer confirms it
    409   the pod changed meanwhile, or somebody bound it: forget the assumption, decide again on its new state
    404   it is gone
    5xx   the outcome is unknown: the assumption stays until a read says what happened

A pod with claims that waited for it is bound last: first its volumes are reserved (`spec.claimRef`) or a provisioner is
told the node, then the controller binds the claims. What fails on the way puts the pod back; what was reserved until
then stays with its claim, and is found there by the next decision.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.api.volumes import BOUND_BY_CONTROLLER, SELECTED_NODE
from raykube.base.backoff import Backoff
from raykube.base.clock import Clock, rfc3339
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.core.eventlog import Reference
from raykube.client.events import EventRecorder
from raykube.client.failures import error_of_body
from raykube.pb import api_pb2
from raykube.scheduler.core.cluster import Cluster, Pod
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.queue import Event, Pending, PodQueue
from raykube.scheduler.core.volumes import Reservation
from raykube.scheduler.metrics import Metrics

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 8  # bulk requests; decisions wait when so many are under way
CLAIMS_TIMEOUT_S = 600.0  # upstream's for binding claims
CLAIMS_LOOK_S = 10.0  # a pod that was deleted is noticed by then
CLAIMS, VOLUMES = builtin("v1", "PersistentVolumeClaim"), builtin("v1", "PersistentVolume")
ASK = Backoff(initial_s=0.2, max_s=5.0)


ClaimKey = tuple[str, str]  # namespace, name


class Decision(NamedTuple):
    pending: Pending
    node: str
    reservations: tuple[Reservation, ...] = ()


class Rejection(NamedTuple):
    pending: Pending
    found: Diagnosis


class Binder:
    """Writes decisions; `wake` is called when a pod came back to the queue."""

    def __init__(
        self,
        client: ApiClient,
        pods: Resource,
        cluster: Cluster,
        queue: PodQueue,
        recorder: EventRecorder,
        metrics: Metrics,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._client = client
        self._pods = pods
        self._cluster = cluster
        self._queue = queue
        self._recorder = recorder
        self._metrics = metrics
        self._clock = clock
        self._wake = wake
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: dict[ClaimKey, set[asyncio.Event]] = {}  # of pods, by the claims that they wait for

    async def bind(self, decisions: list[Decision]) -> None:
        """Starts a bulk request; waits only when too many are under way."""
        ready = []
        for decision in decisions:
            if decision.reservations:
                self._start(self._reserve(decision), release=False)
            else:
                ready.append(decision)
        if ready:
            await self._slots.acquire()
            self._start(self._bind(ready), release=True)

    def on_claim(self, key: ClaimKey) -> None:
        """A claim changed: pods that wait for it look again."""
        for changed in self._waiters.get(key, ()):
            changed.set()

    async def reject(self, rejections: list[Rejection]) -> None:
        """Puts the pods aside, and says why in their status and in events."""
        now = self._clock.monotonic()
        changed = []
        for pending, found in rejections:
            self._metrics.attempts["unschedulable"] += 1
            self._queue.on_unschedulable(pending, found, now)
            self._recorder.record(reference(pending.pod), "Warning", "FailedScheduling", found.message)
            if pending.pod.reported != found.message:
                changed.append((pending.pod, found.message))
        if changed:
            await self._slots.acquire()
            self._start(self._write_conditions(changed), release=True)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, work: "asyncio._CoroutineLike[None]", release: bool) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if release:
            task.add_done_callback(lambda _task: self._slots.release())

    async def _reserve(self, decision: Decision) -> None:
        """Reserves the volumes of a pod, waits until its claims are bound, then binds the pod."""
        changed = asyncio.Event()
        keys = {claim_key(one.claim) for one in decision.reservations}
        for key in keys:
            self._waiters.setdefault(key, set()).add(changed)
        try:
            await self._reserve_and_wait(decision, changed)
        finally:
            for key in keys:
                self._waiters[key].discard(changed)
                if not self._waiters[key]:
                    del self._waiters[key]

    async def _reserve_and_wait(self, decision: Decision, changed: asyncio.Event) -> None:
        pending = decision.pending
        problem = await self._write_reservations(decision.reservations)
        deadline = self._clock.monotonic() + CLAIMS_TIMEOUT_S
        while not problem:
            changed.clear()
            if self._queue.get(pending.pod.uid) is not pending:
                self._cluster.forget(pending.pod.uid)  # deleted meanwhile
                return
            state = self._cluster.volumes.bound(decision.reservations)
            if state:
                await self.bind([Decision(pending, decision.node)])
                return
            if state is False:
                problem = "the claims changed"
            elif self._clock.monotonic() >= deadline:
                problem = "context deadline exceeded"
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CLAIMS_LOOK_S):
                        await changed.wait()
        message = f'running PreBind plugin "VolumeBinding": binding volumes: {problem}'
        self._recorder.record(reference(pending.pod), "Warning", "FailedScheduling", message)
        self._refused(pending, self._clock.monotonic())
        self._wake()

    async def _write_reservations(self, reservations: tuple[Reservation, ...]) -> str:
        """What went wrong; "" when all was written."""
        batch = [reservation_write(one) for one in reservations if not one.assumed]
        try:
            results = await self._client.write(batch) if batch else []
        except ApiError as error:
            return str(error)
        failed = [result for result in results if result.code >= 400]
        return str(error_of_body(failed[0].body, failed[0].code)) if failed else ""

    async def _bind(self, decisions: list[Decision]) -> None:
        batch = [
            operations.bind(pod.namespace, pod.name, decision.node, uid=pod.uid, resource_version=pod.resource_version)
            for decision in decisions
            for pod in (decision.pending.pod,)
        ]
        try:
            results = await self._client.write(batch)
        except ApiError as error:
            log.warning("%d bindings of unknown outcome: %s", len(batch), error)
            for decision in decisions:
                self._start(self._find_out(decision), release=False)
            return
        now = self._clock.monotonic()
        failed = False
        for decision, result in zip(decisions, results, strict=True):
            pending, pod = decision.pending, decision.pending.pod
            if result.code < 400:
                self._bound(decision, now)
            elif result.code >= 500:
                self._start(self._find_out(decision), release=False)
            elif result.code == 404:
                self._cluster.forget(pod.uid)
                self._queue.remove(pod.uid)
            else:
                failed = True
                if result.code == 409:
                    self._metrics.conflicts += 1
                else:
                    log.warning("cannot bind %s/%s to %s: %s", pod.namespace, pod.name, decision.node, result.body)
                self._refused(pending, now)
        if failed:
            self._wake()

    def _bound(self, decision: Decision, now: float) -> None:
        pending = decision.pending
        pod = pending.pod
        self._metrics.on_bound(now - pending.added_at)
        self._queue.remove(pod.uid)
        message = f"Successfully assigned {pod.namespace}/{pod.name} to {decision.node}"
        self._recorder.record(reference(pod), "Normal", "Scheduled", message)

    def _refused(self, pending: Pending, now: float) -> None:
        self._metrics.attempts["error"] += 1
        if self._cluster.forget(pending.pod.uid):
            self._queue.on_event(Event.POD_GONE, now)  # what it would have used is free for others
        self._queue.on_error(pending, now)

    async def _find_out(self, decision: Decision) -> None:
        """Reads the pod until somebody answers: only then is it known what its node has to offer."""
        pending = decision.pending
        attempt = 0
        while True:
            pod = pending.pod
            attempt += 1
            try:
                stored = await self._client.get(self._pods, pod.namespace, pod.name)
            except ApiError as error:
                if error.code == 404:
                    self._cluster.forget(pod.uid)
                    self._queue.remove(pod.uid)
                    return
                await asyncio.sleep(ASK.delay_s(attempt))
                continue
            now = self._clock.monotonic()
            if stored["metadata"]["uid"] == pod.uid and stored["spec"].get("nodeName") == decision.node:
                self._bound(decision, now)
            else:
                self._refused(pending, now)
                self._wake()
            return

    async def _write_conditions(self, changed: list[tuple[Pod, str]]) -> None:
        stamp = rfc3339(self._clock.now())
        batch = [
            operations.patch(
                self._pods,
                pod.namespace,
                pod.name,
                {"status": {"conditions": [condition(message, stamp)]}},
                api_pb2.STRATEGIC,
                "status",
                uid=pod.uid,
            )
            for pod, message in changed
        ]
        try:
            results = await self._client.write(batch)
        except ApiError as error:
            # The next attempt at these pods writes the condition again.
            log.warning("%d conditions not written: %s", len(batch), error)
            return
        for (pod, _), result in zip(changed, results, strict=True):
            if result.code >= 400 and result.code not in (404, 409):  # gone, or another of its name
                log.warning("condition of %s/%s not written: %s", pod.namespace, pod.name, result.body)


def claim_key(claim: operations.Object) -> ClaimKey:
    return claim["metadata"]["namespace"], claim["metadata"]["name"]


def reservation_write(reservation: Reservation) -> api_pb2.Operation:
    """A volume's reservation for a claim, or a claim's node; of exactly the state that was decided on."""
    claim, volume, node, _ = reservation
    metadata = claim["metadata"]
    if volume is None:
        body: operations.Object = {"metadata": {"annotations": {SELECTED_NODE: node}}}
        return operations.patch(
            CLAIMS,
            metadata["namespace"],
            metadata["name"],
            body,
            uid=metadata["uid"],
            resource_version=int(metadata.get("resourceVersion") or 0),
        )
    reference = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata.get("resourceVersion", ""),
    }
    body = {"spec": {"claimRef": reference}}
    if not volume["spec"].get("claimRef"):
        body["metadata"] = {"annotations": {BOUND_BY_CONTROLLER: "yes"}}
    meta = volume["metadata"]
    return operations.patch(
        VOLUMES, "", meta["name"], body, uid=meta["uid"], resource_version=int(meta.get("resourceVersion") or 0)
    )


def condition(message: str, stamp: str) -> operations.Object:
    return {
        "type": "PodScheduled",
        "status": "False",
        "lastProbeTime": None,
        "lastTransitionTime": stamp,
        "reason": "Unschedulable",
        "message": message,
    }


def reference(pod: Pod) -> Reference:
    return Reference("v1", "Pod", pod.namespace, pod.name, pod.uid, str(pod.resource_version))
