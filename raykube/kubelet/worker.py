"""One pod's worker: looks, plans (core.plan), acts, reports (core.status), and waits for the next reason to look.

    running ──deleted, rejected, past its deadline, all ended──► terminating ──everything stopped──► finished
                                                                                     │ deleted: volumes, sandboxes and
                                                                                     ▼ the API object go
                                                                                    gone

A worker never starts anything once it terminates. What it does is safe to repeat: after a restart of the kubelet a new
worker sees the containers of the old one and goes on.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.base.clock import parse_rfc3339
from raykube.client.api import ApiClient
from raykube.client.events import EventRecorder
from raykube.kubelet.containers import ContainerActions, NotStarted, SandboxFailed
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core import resize
from raykube.kubelet.core.admission import admit
from raykube.kubelet.core.criconfig import container_hash
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.plan import Kill, Plan, Waiting, plan
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.restart_backoff import RestartBackoff
from raykube.kubelet.core.status import Inputs, NodeFacts, Verdict, condition, pod_address, pod_status
from raykube.kubelet.core.sysctls import admit_sysctls
from raykube.kubelet.cri import Cri
from raykube.kubelet.handlers import Handlers
from raykube.kubelet.prober import Prober
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.volumes import VolumeFailed, Volumes
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

PODS = builtin("v1", "Pod")
RETRY_S_MIN, RETRY_S_MAX = 0.5, 20.0
VOLUME_RETRY = Backoff(initial_s=0.5, max_s=122.0)  # upstream's
PULL_FAILED = ("ErrImagePull", "RegistryUnavailable", "SignatureValidationFailed")
PULL_FAILED_SHOWN_S = 2.0
RESIZE_RETRY_S = 5.0
GRACE_GONE_S = 1  # for a pod whose API object was removed by force


@dataclass(frozen=True, slots=True)
class Tools:
    """What all workers share."""

    client: ApiClient
    cri: Cri
    volumes: Volumes
    events: EventRecorder
    statuses: StatusWriter
    handlers: Handlers
    containers: ContainerActions
    facts: NodeFacts
    sync_s: float
    node: Callable[[], Object]
    fresh_node: Callable[[], Awaitable[Object]]
    refusal: Callable[[Object], Verdict | None]  # why the node takes no such pod now
    active_pods: Callable[[], Iterable[Object]]  # pods that were admitted and have not finished
    unsafe_sysctls: tuple[str, ...] = ()
    freed: Callable[[], None] = lambda: None  # something that was in use may be so no more


class PodWorker:
    def __init__(self, pod: Object, tools: Tools) -> None:
        self.pod = pod
        self.finished = False  # nothing of it runs, and nothing will
        self.ended = asyncio.Event()  # set once it has finished
        self.admitted = False
        self._tools = tools
        self._wake = asyncio.Event()
        self._ending = asyncio.Event()  # set when the pod is deleted: nothing more needs to be started
        self._gone = False  # the API object was removed, and not by us
        self._verdict: Verdict | None = None
        self._terminating = False
        self._backoff = RestartBackoff()
        self._waiting: dict[str, Waiting] = {}  # containers whose start failed
        self._start_backoff = RestartBackoff(initial_s=1.0, max_s=15.0)
        self._sandbox_backoff = RestartBackoff(initial_s=1.0, max_s=15.0)
        self._retry_at: dict[str, float] = {}
        self._prober = Prober(tools.handlers, tools.events, self.wake)
        self._allocated: dict[str, Object] = resize.sizes(pod) | resize.reported(pod)
        self._applied: dict[str, Object] = {}  # by container id
        self._refusal: resize.Refusal | None = None  # of what the spec asks for
        self._resize_error = ""
        self._started_at = time.time()
        self._stopped = False
        self._refreshed_at = 0.0
        self._volume_failures = 0
        self._messages: dict[str, str] = {}
        self._noted: set[tuple[str, str]] = set()

    @property
    def uid(self) -> str:
        return pods.uid(self.pod)

    @property
    def sized_pod(self) -> Object:
        """The pod with the resources that this machine has promised it."""
        return resize.sized(self.pod, self._allocated)

    @property
    def deferred(self) -> bool:
        """Whether it waits for others to leave, to have what it asks for."""
        return self._refusal is not None and self._refusal.reason == "Deferred"

    def update(self, pod: Object) -> None:
        """The API object changed."""
        old, self.pod = self.pod, pod
        self._tools.statuses.observe(pod)
        if pods.is_deleted(pod):
            self._ending.set()
        relevant = ("deletionTimestamp", "deletionGracePeriodSeconds", "labels", "annotations")
        finishes = pods.is_terminal(pod) and not pods.is_terminal(old)
        if (
            finishes
            or old["spec"] != pod["spec"]
            or any(old["metadata"].get(k) != pod["metadata"].get(k) for k in relevant)
        ):
            self.wake()

    def remove(self) -> None:
        """The API object is gone."""
        self._gone = True
        self._ending.set()
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    def refresh(self) -> None:
        """A ConfigMap or Secret that the pod refers to changed, or is there at last."""
        self._refreshed_at = 0.0
        for name, waiting in self._waiting.items():
            if waiting.reason == "CreateContainerConfigError":
                self._retry_at.pop(name, None)
        self.wake()

    def end(self, verdict: Verdict) -> bool:
        """Ends the pod for a reason of the node's; False where it ends or has ended already."""
        if self._verdict is not None or self._terminating or self.finished:
            return False
        self._verdict = verdict
        self._ending.set()
        self.wake()
        return True

    async def run(self) -> None:
        """Returns when nothing of the pod is left here."""
        failures = 0
        try:
            while True:
                self._wake.clear()
                try:
                    wake_at = await self._sync()
                    failures = 0
                except (RpcError, ApiError, OSError) as error:
                    failures += 1
                    delay = min(RETRY_S_MIN * 2 ** (failures - 1), RETRY_S_MAX) * random.uniform(0.8, 1.2)
                    log.warning("pod %s: %s; again in %.1f s", pods.full_name(self.pod), error, delay)
                    wake_at = time.time() + delay
                if wake_at is None:
                    return
                # Not wait_for: in Python 3.11 that loses a cancellation which comes together with the wake-up.
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(wake_at - time.time(), 0)):
                        await self._wake.wait()
        finally:
            self._prober.stop()

    # -- one round

    async def _sync(self) -> float | None:
        """Returns when to look again; None when the pod has left this machine."""
        observed = await self._tools.cri.observe(self.uid)
        pod = self.pod
        now = time.time()
        if not self._terminating and not await self._ends(pod, observed, now):
            return await self._unless_deleted(pod, observed, now)
        self._terminating = True
        return await self._terminate(observed)

    async def _unless_deleted(self, pod: Object, observed: ObservedPod, now: float) -> float:
        """Goes on with the pod; a deletion cuts short what may take long, as pulling an image or a hook."""
        work = asyncio.ensure_future(self._go_on(pod, observed, now))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            await asyncio.wait({work, ending}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return await work
            work.cancel()
            await asyncio.wait({work})
            return now
        finally:
            work.cancel()
            ending.cancel()

    async def _ends(self, pod: Object, observed: ObservedPod, now: float) -> bool:
        if self._gone or pods.is_deleted(pod) or pods.is_terminal(pod) or self._verdict is not None:
            return True
        if not self.admitted:
            if not observed.sandboxes:
                self._verdict = admit_sysctls(pod, self._tools.unsafe_sysctls) or self._tools.refusal(pod)
                if self._verdict is not None:
                    self._tools.events.record(pod, "Warning", self._verdict.reason, self._verdict.message)
                    return True
                if admit(pod, self._tools.active_pods(), self._tools.node()) is not None:
                    # Nothing may be awaited between the last look at the other pods and our own admission.
                    node = await self._tools.fresh_node()
                    self._verdict = admit(pod, self._tools.active_pods(), node)
                if self._verdict is not None:
                    self._tools.events.record(pod, "Warning", self._verdict.reason, self._verdict.message)
                    return True
            self.admitted = True
        deadline = self._deadline(pod)
        if deadline is not None and now >= deadline:
            message = "Pod was active on the node longer than the specified deadline"
            self._verdict = Verdict("Failed", "DeadlineExceeded", message)
            self._tools.events.record(pod, "Normal", "DeadlineExceeded", message)
            return True
        return False

    def _deadline(self, pod: Object) -> float | None:
        seconds = pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return None
        start = self._tools.statuses.known(pod).get("startTime")
        return (parse_rfc3339(start) if start else self._started_at) + float(seconds)

    async def _go_on(self, pod: Object, observed: ObservedPod, now: float) -> float:
        address = pod_address(observed, pod, self._tools.facts)
        self._allocate(pod)
        pod = resize.sized(pod, self._allocated)
        self._adopt_sizes(pod, observed)
        self._prober.follow(pod, observed, address, terminating=False)
        hashes = {spec["name"]: container_hash(spec) for spec in pods.all_containers(pod)}
        found = plan(pod, observed, self._prober.results, self._backoff, hashes, now)
        self._note_back_off(pod, found)
        self._report(pod, observed, found)
        wake_at = now + self._tools.sync_s * random.uniform(1.0, 1.25)
        deadline = self._deadline(pod)
        for moment in (found.wake_at, deadline):
            if moment is not None:
                wake_at = min(wake_at, moment)
        if observed.sandbox is not None and now - self._refreshed_at > self._tools.sync_s:
            await self._refresh_volumes(pod, address)
        if found.idle:
            again = await self._resize(pod, observed, address, now)
            return wake_at if again is None else min(wake_at, again)
        if found.stop_pod:
            await self._stop_everything(pod, observed, pods.grace_s(pod), "")
        elif found.new_sandbox:
            try:
                await self._tools.containers.new_sandbox(pod, found.sandbox_attempt)
            except VolumeFailed as failure:
                self._event(pod, "Warning", "FailedMount", str(failure))
                self._volume_failures += 1
                # The objects that are missing wake it; this is for what nobody tells: directories, claims.
                return now + VOLUME_RETRY.delay_s(self._volume_failures)
            except SandboxFailed:
                self._sandbox_backoff.restarted("", now, now)
                return now + self._sandbox_backoff.delay_s("", now)
            self._volume_failures = 0
            self._sandbox_backoff.forget("")
        else:
            again = await self._apply(pod, observed, found, address, now)
            if again is not None:
                return again
        self._wake.set()  # look at what came of it
        return now

    async def _apply(self, pod: Object, observed: ObservedPod, found: Plan, address: str, now: float) -> float | None:
        """Kills and starts; returns when to try again what failed, None when something was done."""
        retry: float | None = None
        done = bool(found.kills)
        killing = [asyncio.ensure_future(self._kill_unhealthy(pod, observed, kill)) for kill in found.kills]
        sandbox = observed.ready_sandbox
        assert sandbox is not None, "a plan starts containers in a ready sandbox only"
        for start in found.starts:
            at = self._retry_at.get(start.name, 0.0)
            if at > now:
                retry = at if retry is None else min(retry, at)
                continue
            spec = pods.container(pod, start.name)
            assert spec is not None
            try:
                if start.after is not None:
                    self._backoff.restarted(start.name, start.after, now)
                target_id = _target(spec, observed)
                size = self._allocated.get(start.name)
                container_id = await self._tools.containers.start(pod, spec, start.attempt, sandbox, address, target_id)
                if size is not None:
                    self._applied[container_id] = size
                self._waiting.pop(start.name, None)
                self._retry_at.pop(start.name, None)
                done = True
            except NotStarted as failure:
                self._waiting[start.name] = Waiting(start.name, failure.reason, failure.message)
                done = done or failure.created
                at = self._retry_at[start.name] = self._next_try(start.name, failure, now)
                retry = at if retry is None else min(retry, at)
        if killing:
            await asyncio.gather(*killing)
        if not done:
            self._report(pod, observed, found)
            return retry
        return None

    # -- resizing

    def _allocate(self, pod: Object) -> None:
        """Promises the pod what its spec asks for, if the machine has it."""
        if not resize.wants_resize(pod, self._allocated):
            self._refusal = None
            return
        others = [one for one in self._tools.active_pods() if pods.uid(one) != self.uid]
        before, self._refusal = self._refusal, resize.decide(pod, others, self._tools.node())
        if self._refusal is None:
            self._allocated = resize.sizes(pod)
            self._resize_error = ""
        elif self._refusal != before:
            message = f"Pod resize {self._refusal.reason}: {self._refusal.message}"
            self._event(pod, "Warning", f"Resize{self._refusal.reason}", message)

    def _adopt_sizes(self, pod: Object, observed: ObservedPod) -> None:
        """Containers of an earlier kubelet have what it said; whom nobody told of, what was promised."""
        known = resize.reported(pod)
        running = {run.id: run.name for run in observed.running}
        for container_id, name in running.items():
            if container_id not in self._applied and name in self._allocated:
                self._applied[container_id] = known.get(name, self._allocated[name])
        self._applied = {one: size for one, size in self._applied.items() if one in running}

    async def _resize(self, pod: Object, observed: ObservedPod, address: str, now: float) -> float | None:
        """Gives containers what was promised; returns when to try again what failed."""
        steps = resize.steps(pod, self._allocated, self._applied, observed)
        if not steps:
            return None
        self._report(pod, observed, None)  # it is in progress
        self._tools.containers.resize_pod(pod)
        try:
            for step in steps:
                spec = pods.container(pod, step.name)
                assert spec is not None
                if step.restart:
                    run = next(one for one in observed.running if one.id == step.container_id)
                    message = f"Container {step.name} resize requires restart"
                    await self._tools.containers.kill(pod, spec, run, address, pods.grace_s(pod), message)
                else:
                    await self._tools.containers.resize(pod, spec, step.container_id)
                    self._applied[step.container_id] = self._allocated[step.name]
        except RpcError as error:
            if error.code is Code.UNAVAILABLE:
                raise
            if error.message != self._resize_error:
                self._event(pod, "Warning", "ResizeError", f"Pod resize error: {error.message}")
            self._resize_error = error.message
            self._report(pod, observed, None)
            return now + RESIZE_RETRY_S
        self._resize_error = ""
        self._tools.containers.resize_pod(pod)
        self._tools.freed()
        if not any(step.restart for step in steps):
            self._event(pod, "Normal", "ResizeCompleted", "Pod resize completed")
        self._wake.set()
        return now

    def _resize_conditions(self, pod: Object, observed: ObservedPod) -> list[Object]:
        found = []
        if self._refusal is not None:
            found.append((resize.PENDING, self._refusal.reason, self._refusal.message))
        if resize.steps(pod, self._allocated, self._applied, observed):
            reason = "Error" if self._resize_error else ""
            found.append((resize.IN_PROGRESS, reason, self._resize_error))
        return [condition(kind, "True", reason, message) for kind, reason, message in found]

    def _next_try(self, name: str, failure: NotStarted, now: float) -> float:
        if failure.reason in PULL_FAILED:
            return now + PULL_FAILED_SHOWN_S  # then it is told that it waits, and until when
        if failure.retry_at is not None:
            return failure.retry_at
        self._start_backoff.restarted(name, now, now)
        return now + self._start_backoff.delay_s(name, now)

    async def _kill_unhealthy(self, pod: Object, observed: ObservedPod, kill: Kill) -> None:
        run = next(one for one in observed.containers if one.id == kill.container_id)
        spec = pods.container(pod, kill.name)
        assert spec is not None
        probe = spec.get("livenessProbe" if self._prober.results.liveness_failed(run.id) else "startupProbe") or {}
        own = probe.get("terminationGracePeriodSeconds")
        grace_s = pods.grace_s(pod) if own is None else int(own)
        await self._tools.containers.kill(pod, spec, run, self._address(observed), grace_s, kill.message)

    def _address(self, observed: ObservedPod) -> str:
        return pod_address(observed, self.pod, self._tools.facts)

    async def _refresh_volumes(self, pod: Object, address: str) -> None:
        """Brings changes of ConfigMaps, Secrets and tokens into the volumes of a running pod."""
        try:
            await self._tools.volumes.mount(pod, self._tools.containers.pod_facts(address))
        except VolumeFailed as failure:
            self._event(pod, "Warning", "FailedMount", str(failure))
        except ApiError as error:
            log.debug("the volumes of %s stay as they are: %s", pods.full_name(pod), error)
        self._refreshed_at = time.time()

    # -- the end

    async def _terminate(self, observed: ObservedPod) -> float | None:
        pod = self.pod
        self._prober.follow(pod, observed, self._address(observed), terminating=True)
        if observed.running or any(sandbox.ready for sandbox in observed.sandboxes):
            self._report(pod, observed, None)
            await self._stop_with_patience(observed)
            observed = await self._tools.cri.observe(self.uid)
            if observed.running or any(sandbox.ready for sandbox in observed.sandboxes):
                return time.time() + RETRY_S_MIN
        self._stopped = True
        self._prober.stop()
        pod = self.pod
        if not self._gone and (observed.sandboxes or not pods.is_terminal(pod)):
            told = self._report(pod, observed, None)
            if not pods.is_static(pod):  # which ends even while no apiserver hears of it
                await told
        self.finished = True
        self._tools.freed()
        await self._tools.volumes.unmount(pod)
        self.ended.set()
        if not (self._gone or pods.is_deleted(pod)):
            return time.time() + self._tools.sync_s  # a finished pod stays to be looked at
        await self._tools.containers.remove_all(pod, observed)
        if not self._gone and not pods.is_static(pod):
            try:
                await self._tools.client.delete(
                    PODS, pods.namespace(pod), pods.name(pod), uid=self.uid, grace_period_s=0
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
        self._tools.containers.forget(pod)
        return None

    async def _stop_with_patience(self, observed: ObservedPod) -> None:
        """Stops everything within the grace period, which a second deletion may shorten meanwhile."""
        begun = time.time()
        grace_s = self._grace_s()
        stopping = asyncio.ensure_future(self._stop_everything(self.pod, observed, grace_s, ""))
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            while True:
                await asyncio.wait({stopping, waking}, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    await stopping
                    return
                self._wake.clear()
                waking = asyncio.ensure_future(self._wake.wait())
                shorter = self._grace_s()
                if shorter < grace_s:
                    grace_s = shorter
                    stopping.cancel()
                    await asyncio.wait({stopping})
                    left = max(int(begun + grace_s - time.time()), 0)
                    stopping = asyncio.ensure_future(self._stop_everything(self.pod, observed, left, "", hooks=False))
                else:
                    with suppress(RpcError):
                        self._report(self.pod, await self._tools.cri.observe(self.uid), None)
        finally:
            stopping.cancel()
            waking.cancel()

    def _grace_s(self) -> int:
        grace_s = min(pods.grace_s(self.pod), GRACE_GONE_S) if self._gone else pods.grace_s(self.pod)
        own = self._verdict.grace_s if self._verdict is not None else None
        return grace_s if own is None else min(grace_s, own)

    async def _stop_everything(
        self, pod: Object, observed: ObservedPod, grace_s: int, message: str, hooks: bool = True
    ) -> None:
        """Containers first, sidecars after them in reverse order, then the sandboxes."""
        deadline = time.time() + grace_s
        address = self._address(observed)

        async def kill(run: ObservedContainer, seconds: int) -> None:
            spec = pods.container(pod, run.name) or {"name": run.name}
            await self._tools.containers.kill(pod, spec, run, address, seconds, message, hooks=hooks)

        order = {spec["name"]: index for index, spec in enumerate(pods.init_containers(pod)) if pods.is_sidecar(spec)}
        alive = [run for run in observed.containers if run.state in (State.RUNNING, State.UNKNOWN)]
        await asyncio.gather(*(kill(run, grace_s) for run in alive if run.name not in order))
        for run in sorted((run for run in alive if run.name in order), key=lambda one: -order[one.name]):
            await kill(run, max(int(deadline - time.time()), min(grace_s, 2)))
        for sandbox in observed.sandboxes:
            if sandbox.ready:
                await self._tools.cri.stop_sandbox(sandbox.id)

    # -- telling

    def _report(self, pod: Object, observed: ObservedPod, found: Plan | None) -> "asyncio.Future[None]":
        waiting = dict(self._waiting)
        for name in list(waiting):
            latest = observed.latest(name)
            if latest is not None and latest.state is State.RUNNING:
                del waiting[name]
        if found is not None:
            waiting |= {one.name: one for one in found.waiting}
        inputs = Inputs(
            pod=pod | {"status": self._base_status(pod)},
            observed=observed,
            probes=self._prober.results,
            waiting=waiting,
            messages=self._termination_messages(pod, observed),
            verdict=self._verdict if self._terminating else None,
            stopped=self._stopped,
            started_at=self._started_at,
            allocated=self._allocated,
            applied=self._applied,
            resize=[] if self._terminating else self._resize_conditions(pod, observed),
        )
        return self._tools.statuses.write(pod, pod_status(inputs, self._tools.facts, time.time()))

    def _base_status(self, pod: Object) -> Object:
        """The API's status with our own last write over it; conditions of others as they are in the API now."""
        api, own = pod.get("status") or {}, self._tools.statuses.known(pod)
        mine = {one["type"]: one for one in own.get("conditions") or ()}
        theirs = [one for one in api.get("conditions") or () if one["type"] not in mine]
        return {**api, **own, "conditions": [*mine.values(), *theirs]}

    def _termination_messages(self, pod: Object, observed: ObservedPod) -> dict[str, str]:
        for run in observed.containers:
            if run.state is State.EXITED and run.id not in self._messages:
                self._messages[run.id] = self._tools.containers.termination_message(pod, run)
        return self._messages

    def _note_back_off(self, pod: Object, found: Plan) -> None:
        now_waiting = {(one.name, one.message) for one in found.waiting}
        for name, _ in now_waiting - self._noted:
            message = f"Back-off restarting failed container {name} in pod {pods.full_name(pod)}"
            self._event(pod, "Warning", "BackOff", message, f"spec.containers{{{name}}}")
        self._noted = now_waiting

    def _event(self, pod: Object, kind: str, reason: str, message: str, field_path: str = "") -> None:
        self._tools.events.record(pod, kind, reason, message, field_path)


def _target(spec: Object, observed: ObservedPod) -> str:
    """The id of the container that an ephemeral one looks into; "" for none. Raises NotStarted."""
    name = spec.get("targetContainerName")
    if not name:
        return ""
    target = observed.latest(name)
    if target is None or target.state is not State.RUNNING:
        raise NotStarted("CreateContainerConfigError", f"unable to find target container {name}")
    return target.id
