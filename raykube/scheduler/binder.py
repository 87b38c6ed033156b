"""Carries decisions out: bindings in bulk, and conditions and events for pods that fit nowhere.

A binding is conditional on the revision of the pod that was decided on. Its result:
    200   bound; the assumption stays until the informer confirms it
    409   the pod changed meanwhile, or somebody bound it, perhaps we in a request whose answer was lost
    404   it is gone
    5xx   the outcome is unknown
After 409 and 5xx the assumption stays until a read says what happened: then it is decided again on the pod's new state.

A pod with claims that waited for it is bound last, once `reserving` has its volumes and devices. What fails on the
way puts the pod back.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from raykube.api.deadlines import Verdict
from raykube.api.errors import ApiError
from raykube.api.resources import Resource, builtin
from raykube.base.backoff import Backoff
from raykube.base.clock import Clock, rfc3339
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.core.eventlog import Reference
from raykube.client.events import EventRecorder
from raykube.pb import api_pb2
from raykube.scheduler.core import conditions
from raykube.scheduler.core.cluster import Cluster
from raykube.scheduler.core.conditions import Note
from raykube.scheduler.core.devices import Grant
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.events import Event
from raykube.scheduler.core.gangs import Condition, Group, GroupKey
from raykube.scheduler.core.pod import Pod
from raykube.scheduler.core.preemption import Eviction
from raykube.scheduler.core.queue import Pending, PodQueue
from raykube.scheduler.core.volumes import Reservation
from raykube.scheduler.metrics import Metrics
from raykube.scheduler.reserving import Reserving

log = logging.getLogger(__name__)

IN_FLIGHT_MAX = 8  # bulk requests; decisions wait when so many are under way
POD_GROUPS = builtin("scheduling.k8s.io/v1alpha2", "PodGroup")
ASK = Backoff(initial_s=0.2, max_s=5.0)


class Decision(NamedTuple):
    pending: Pending
    node: str
    reservations: tuple[Reservation | Grant, ...] = ()
    verdict: Verdict | None = None  # on its deadline, to be told once it is bound


class Rejection(NamedTuple):
    pending: Pending
    found: Diagnosis
    tried: bool = True  # False: it waits for its gang


class Binder:
    """Writes decisions; `wake` is called when a pod came back to the queue."""

    def __init__(
        self,
        client: ApiClient,
        pods: Resource,
        cluster: Cluster,
        queue: PodQueue,
        recorders: Mapping[str, EventRecorder],
        metrics: Metrics,
        clock: Clock,
        wake: Callable[[], None],
        leads: Callable[[], bool],
    ) -> None:
        self._client = client
        self._pods = pods
        self._cluster = cluster
        self._queue = queue
        self._recorders = recorders  # by the name of the profile: events come from the scheduler that a pod asked for
        self._metrics = metrics
        self._clock = clock
        self._wake = wake
        self._leads = leads
        self._slots = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self.reserving = Reserving(client, cluster, queue, clock, wake)

    async def bind(self, decisions: list[Decision]) -> None:
        """Starts a bulk request; waits only when too many are under way."""
        ready = []
        for decision in decisions:
            if decision.reservations:
                self._start(self._reserve_and_bind(decision), release=False, decisions=[decision])
            else:
                ready.append(decision)
        if ready:
            await self._slots.acquire()
            self._start(self._bind(ready), release=True, decisions=ready)

    async def bind_together(self, decisions: list[Decision], then: Sequence[Decision] = ()) -> None:
        """The same for pods of which all are bound in one step of the store, or none; `then`: others, once they are."""
        everyone = [*decisions, *then]
        if any(decision.reservations for decision in decisions):
            self._start(self._reserve_and_bind_together(decisions, then), release=False, decisions=everyone)
        else:
            await self._slots.acquire()
            self._start(self._bind(decisions, True, then), release=True, decisions=everyone)

    async def reject(self, rejections: list[Rejection]) -> None:
        """Puts the pods aside, and says why in their status and in events."""
        now = self._clock.monotonic()
        changed: list[Note] = []
        evictions: list[tuple[Pending, Eviction]] = []
        for pending, found, tried in rejections:
            tried = tried and not found.waits
            if found.idle is not None:
                self._start(self.reserving.granting.take_back(found.idle), release=False)
            if found.eviction is not None and not self._may_evict(pending):
                self._cancel(pending, found.eviction)
                self._queue.on_error(pending, now)
                continue
            self._queue.on_unschedulable(pending, found, now, tried)
            if tried:
                self._metrics.on_attempt(pending.pod.needs.profile, "unschedulable")
                self._record(pending.pod, "Warning", "FailedScheduling", found.message)
            eviction = found.eviction
            promised = eviction.node if eviction is not None else "" if found.unpromised else None
            if pending.pod.reported != found.message or promised not in (None, pending.pod.nominated):
                changed.append(Note(pending.pod, found.message, promised))
            if eviction is not None:
                self._metrics.preemptions += 1
                evictions.append((pending, eviction))
                for pod in eviction.cleared:
                    changed.append(Note(pod, None, ""))
                    self._queue.wake(pod.uid, now)
        if changed or evictions:
            await self._slots.acquire()
            self._start(self._write_notes(changed, evictions), release=True)

    def _may_evict(self, pending: Pending) -> bool:
        """Nobody leaves for a pod that is gone, or that is another scheduler's business by now."""
        return self._leads() and self._queue.get(pending.pod.uid) is pending

    def _cancel(self, pending: Pending, eviction: Eviction) -> None:
        """Nothing of the eviction was written."""
        nominations = self._cluster.preemption.nominations
        self._cluster.preemption.cancel(eviction)
        for pod in eviction.cleared:
            if self._queue.get(pod.uid) is None:
                nominations.take(pod.uid)
        if self._queue.get(pending.pod.uid) is pending:
            nominations.set(pending.pod, pending.pod.nominated)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _record(self, pod: Pod, kind: str, reason: str, message: str) -> None:
        self._recorders[pod.needs.profile].record(reference(pod), kind, reason, message)

    def _start(self, work: Coroutine[Any, Any, None], release: bool, decisions: Sequence[Decision] = ()) -> None:
        """Runs it beside all else; should it fail as nobody expects, `decisions` that it left open are taken back."""
        task = asyncio.get_running_loop().create_task(self._guard(work, decisions))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _task: work.close())  # should it not have begun
        if release:
            task.add_done_callback(lambda _task: self._slots.release())

    async def _guard(self, work: Coroutine[Any, Any, None], decisions: Sequence[Decision]) -> None:
        try:
            await work
        except Exception:
            log.exception("a fault while decisions were carried out")
            now = self._clock.monotonic()
            for decision in decisions:
                if self._queue.get(decision.pending.pod.uid) is decision.pending:
                    self._refused(decision.pending, now)
            self._wake()

    async def _reserve_and_bind(self, decision: Decision) -> None:
        problem = await self.reserving.reserve(decision.pending, decision.reservations)
        if problem is None:
            await self.bind([decision._replace(reservations=())])
        else:
            self._unreserved(decision, problem)

    async def _reserve_and_bind_together(self, decisions: list[Decision], then: Sequence[Decision]) -> None:
        problems = await asyncio.gather(
            *(self.reserving.reserve(one.pending, one.reservations) for one in decisions if one.reservations)
        )
        found = [problem for problem in problems if problem is not None]
        if not found:
            await self.bind_together([decision._replace(reservations=()) for decision in decisions], then)
            return
        for decision in (*decisions, *then):
            self._unreserved(decision, next(filter(None, found), ""))

    def _unreserved(self, decision: Decision, problem: str) -> None:
        """The pod goes back to the queue; one that was deleted meanwhile ("") is only forgotten."""
        pod = decision.pending.pod
        if self._queue.get(pod.uid) is not decision.pending:
            self._free(pod.uid, self._clock.monotonic())
            return
        if problem:
            self._record(pod, "Warning", "FailedScheduling", problem)
        self._refused(decision.pending, self._clock.monotonic())
        self._wake()

    async def _bind(self, decisions: list[Decision], together: bool = False, then: Sequence[Decision] = ()) -> None:
        batch = [
            operations.bind(pod.namespace, pod.name, decision.node, uid=pod.uid, resource_version=pod.resource_version)
            for decision in decisions
            for pod in (decision.pending.pod,)
        ]
        try:
            results = await (self._client.write_together(batch) if together else self._client.write(batch))
        except ApiError as error:
            log.warning("%d bindings of unknown outcome: %s", len(batch), error)
            work = self._find_out_all(decisions, together, then)
            self._start(work, release=False, decisions=[*decisions, *then])
            return
        now = self._clock.monotonic()
        unknown: list[Decision] = []
        failed = False
        for decision, result in zip(decisions, results, strict=True):
            pending, pod = decision.pending, decision.pending.pod
            if result.code < 400:
                self._bound(decision, now)
            elif result.code >= 500 or result.code == 409:
                self._metrics.conflicts += result.code == 409
                unknown.append(decision)
            elif result.code == 404 and not together:
                self._gone(pod.uid, now)
            else:
                log.warning("cannot bind %s/%s to %s: %s", pod.namespace, pod.name, decision.node, result.body)
                if together:
                    unknown.append(decision)
                    continue
                failed = True
                self._refused(pending, now)
        if failed:
            self._wake()
        if unknown:
            work = self._find_out_all(unknown, together, then)
            self._start(work, release=False, decisions=[*unknown, *then])
        elif then:
            self._start(self.bind(list(then)), release=False, decisions=then)

    async def _find_out_all(self, decisions: list[Decision], together: bool, then: Sequence[Decision]) -> None:
        """What is known of a gang is known of all its pods at once: else some would be decided on beside the others."""
        if together:
            await self._find_out(decisions, then)
        else:
            await asyncio.gather(*(self._find_out([decision]) for decision in decisions))

    def _bound(self, decision: Decision, now: float) -> None:
        pending = decision.pending
        pod = pending.pod
        self._metrics.on_bound(pod.needs.profile, now - pending.added_at)
        self._queue.remove(pod.uid)
        if decision.verdict is not None:
            self._start(self.tell_deadlines([(pod, decision.verdict)]), release=False)
        message = f"Successfully assigned {pod.namespace}/{pod.name} to {decision.node}"
        self._record(pod, "Normal", "Scheduled", message)

    def _refused(self, pending: Pending, now: float) -> None:
        self._metrics.on_attempt(pending.pod.needs.profile, "error")
        self._free(pending.pod.uid, now)
        self._queue.on_error(pending, now)

    def _gone(self, uid: str, now: float) -> None:
        self._free(uid, now)
        self._queue.remove(uid)

    def _free(self, uid: str, now: float) -> None:
        """What the pod would have used is free for others, and its gang is decided on anew."""
        if not self._cluster.refused(uid):
            return
        self._queue.on_event(Event.POD_GONE, now)
        self.reserving.tell_devices()
        for key in self._cluster.decided():
            for member in self._cluster.gangs.waiting(key):
                self._queue.wake(member, now)

    async def _find_out(self, decisions: list[Decision], then: Sequence[Decision] = ()) -> None:
        """Asks until all is known: only then is it known what the nodes have to offer. No pod is let go of before."""
        outcomes = await asyncio.gather(*(self._ask(decision) for decision in decisions))
        now = self._clock.monotonic()
        for decision, bound in zip(decisions, outcomes, strict=True):
            if bound:
                self._bound(decision, now)
            elif bound is None:
                self._gone(decision.pending.pod.uid, now)
            else:
                self._refused(decision.pending, now)
        if then and all(outcomes):
            self._start(self.bind(list(then)), release=False, decisions=then)
        else:
            for decision in then:
                self._refused(decision.pending, now)
        self._wake()

    async def _ask(self, decision: Decision) -> bool | None:
        """Reads the pod until somebody answers: whether it is bound as decided; None when it is gone."""
        attempt = 0
        while True:
            pod = decision.pending.pod
            attempt += 1
            try:
                stored = await self._client.get(self._pods, pod.namespace, pod.name)
            except ApiError as error:
                if error.code == 404:
                    return None
                await asyncio.sleep(ASK.delay_s(attempt))
                continue
            return bool(stored["metadata"]["uid"] == pod.uid and stored["spec"].get("nodeName") == decision.node)

    async def _write_notes(self, changed: list[Note], evictions: list[tuple[Pending, Eviction]]) -> None:
        """What became of pods, then the deletion of those that give way: a promise is written before it costs."""
        stamp = rfc3339(self._clock.now())
        batch = [
            operations.patch(
                self._pods,
                note.pod.namespace,
                note.pod.name,
                {"status": note.status(stamp)},
                api_pb2.STRATEGIC,
                "status",
                uid=note.pod.uid,
            )
            for note in changed
        ]
        if batch:
            # What is not written now, the next attempt at these pods writes again.
            await self._write(batch, "status")
        if evictions:
            await self._evict(evictions, stamp)

    async def _evict(self, evictions: list[tuple[Pending, Eviction]], stamp: str) -> None:
        for pending, eviction in evictions:
            if not self._may_evict(pending):
                for victim in eviction.victims:
                    self._cluster.preemption.spare(victim.uid)
                self._queue.wake(pending.pod.uid, self._clock.monotonic())
        victims = [
            (victim, pending.pod, each)
            for pending, each in evictions
            if self._may_evict(pending)
            for victim in each.victims
        ]
        if not victims:
            return
        marks = [
            operations.patch(
                self._pods,
                victim.namespace,
                victim.name,
                {"status": {"conditions": [conditions.disruption(preemptor.needs.profile, stamp)]}},
                api_pb2.STRATEGIC,
                "status",
                uid=victim.uid,
            )
            for victim, preemptor, _ in victims
            if not victim.terminating
        ]
        if marks:
            await self._write(marks, "condition")
        deletions = [operations.delete(self._pods, v.namespace, v.name, uid=v.uid) for v, _, _ in victims]
        deleted = await self._write(deletions, "deletion")
        for (victim, preemptor, eviction), done in zip(victims, deleted, strict=True):
            if not done:
                self._cluster.preemption.spare(victim.uid)
                continue
            self._metrics.victims += 1
            message = f"Preempted by pod {preemptor.uid} on node {eviction.node}"
            self._recorders[preemptor.needs.profile].record(reference(victim), "Normal", "Preempted", message)

    async def tell_group(self, key: GroupKey, group: Group, verdict: Condition) -> None:
        """What came of scheduling a PodGroup."""
        body = {"status": {"conditions": [verdict._asdict() | {"type": "PodGroupScheduled"}]}}
        body["status"]["conditions"][0]["lastTransitionTime"] = rfc3339(self._clock.now())
        write = operations.patch(POD_GROUPS, *key, body, api_pb2.STRATEGIC, "status", uid=group.uid)
        await self._slots.acquire()
        self._start(self._tell(write), release=True)

    async def tell_deadlines(self, news: list[tuple[Pod, Verdict]]) -> None:
        """Whether pods will meet their deadlines, as a condition, and as an event if not."""
        stamp = rfc3339(self._clock.now())
        batch = []
        for pod, verdict in news:
            if not verdict.reachable:
                self._record(pod, "Warning", f"Deadline{verdict.reason}", verdict.message)
            body = {"status": {"conditions": [conditions.deadline(verdict, stamp)]}}
            batch.append(
                operations.patch(self._pods, pod.namespace, pod.name, body, api_pb2.STRATEGIC, "status", uid=pod.uid)
            )
        await self._slots.acquire()
        self._start(self._tell(*batch), release=True)

    async def _tell(self, *writes: operations.Operation) -> None:
        await self._write(list(writes), "condition")

    async def _write(self, batch: list[operations.Operation], what: str) -> list[bool]:
        """Writes what may fail; for each whether it was done, or there is nobody left to do it to."""
        try:
            results = await self._client.write(batch)
        except ApiError as error:
            log.warning("%d writes (%s) of unknown outcome: %s", len(batch), what, error)
            return [False] * len(batch)
        done = []
        for op, result in zip(batch, results, strict=True):
            gone = result.code in (404, 409)  # gone, or another of its name
            done.append(result.code < 400 or gone)
            if not done[-1]:
                log.warning("%s of %s/%s not written: %s", what, op.namespace, op.name, result.body)
        return done


def reference(pod: Pod) -> Reference:
    return Reference("v1", "Pod", pod.namespace, pod.name, pod.uid, str(pod.resource_version))
