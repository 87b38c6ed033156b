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
from contextlib import suppress

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.backoff import Backoff
from raykube.base.clock import parse_rfc3339
from raykube.kubelet import podstop
from raykube.kubelet.containers import NotStarted, SandboxFailed, target_of
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.admission import REJECTED, admit
from raykube.kubelet.core.criconfig import container_hash
from raykube.kubelet.core.deviceclaims import DevicesFailed
from raykube.kubelet.core.lostruns import with_lost_runs
from raykube.kubelet.core.observed import ObservedPod
from raykube.kubelet.core.plan import Kill, Plan, Waiting, plan
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.preemption import victims
from raykube.kubelet.core.restart_backoff import RestartBackoff
from raykube.kubelet.core.status import Verdict, pod_address
from raykube.kubelet.core.sysctls import admit_sysctls
from raykube.kubelet.podreport import PodReport
from raykube.kubelet.podresize import PodResize
from raykube.kubelet.prober import Prober
from raykube.kubelet.tools import Tools
from raykube.kubelet.volumes import VolumeFailed
from raykube.rpc import RpcError

log = logging.getLogger(__name__)

PODS = builtin("v1", "Pod")
RETRY_S_MIN, RETRY_S_MAX = 0.5, 20.0
VOLUME_RETRY = Backoff(initial_s=0.5, max_s=122.0)  # upstream's
PULL_FAILED = ("ErrImagePull", "RegistryUnavailable", "SignatureValidationFailed")
PULL_FAILED_SHOWN_S = 2.0
FRESH_NODE_S = 5.0  # how long a static pod waits for an apiserver
GRACE_GONE_S = 1  # for a pod whose API object was removed by force


class PodWorker:
    def __init__(self, pod: Object, tools: Tools) -> None:
        self.pod = pod
        self.stopped = asyncio.Event()  # set once nothing of it runs, and nothing will: its room is free
        self.finished = False  # and the API knows it
        self.ended = asyncio.Event()  # set once it has finished, and nothing of it is mounted
        self._admitted = False
        # An earlier kubelet's word, until the runtime tells: who comes now must not take the room of what runs.
        self._known_here = pods.was_accepted(pod)
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
        self._resizing = PodResize(pod, tools)
        self._report = PodReport(tools, self._prober.results, self._resizing)
        self._refreshed_at = 0.0
        self._volume_failures = 0

    @property
    def uid(self) -> str:
        return pods.uid(self.pod)

    @property
    def sized_pod(self) -> Object:
        """The pod with the resources that this machine has promised it."""
        return self._resizing.sized(self.pod)

    @property
    def takes_room(self) -> bool:
        """Whether others find less room because of it."""
        return (self._admitted or self._known_here) and not self.stopped.is_set()

    @property
    def deferred(self) -> bool:
        """Whether it waits for others to leave, to have what it asks for."""
        return self._resizing.deferred

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
        observed = await self._observe()
        pod = self.pod
        now = time.time()
        if not self._terminating and not await self._ends(pod, observed, now):
            return await self._unless_deleted(pod, observed, now)
        self._terminating = True
        return await self._terminate(observed)

    async def _observe(self) -> ObservedPod:
        return with_lost_runs(await self._tools.cri.observe(self.uid), self._tools.statuses.known(self.pod))

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
        if not self._admitted:
            if not observed.sandboxes:
                self._verdict = admit_sysctls(pod, self._tools.unsafe_sysctls) or self._tools.refusal(pod)
                if self._verdict is None and admit(pod, self._others(), self._tools.node()) is not None:
                    # Nothing may be awaited between the last look at the other pods and our own admission.
                    node = await self._fresh_node(pod)
                    leaving = victims(pod, self._others(), node)
                    if leaving:
                        await self._tools.preempt(leaving)
                    self._verdict = admit(pod, self._others(), node)
                if self._verdict is not None:
                    message = self._verdict.message.removeprefix(REJECTED)
                    self._event(pod, "Warning", self._verdict.reason, message)
                    return True
            self._admitted = True
        deadline = self._deadline(pod)
        if deadline is not None and now >= deadline:
            message = "Pod was active on the node longer than the specified deadline"
            self._verdict = Verdict("Failed", "DeadlineExceeded", message)
            self._tools.events.record(pod, "Normal", "DeadlineExceeded", message)
            return True
        return False

    def _others(self) -> list[Object]:
        return [one for one in self._tools.active_pods() if pods.uid(one) != self.uid]

    async def _fresh_node(self, pod: Object) -> Object:
        """The node as the API has it. A static pod, which may be the apiserver's own, goes by what is remembered."""
        if not pods.is_static(pod):
            return await self._tools.fresh_node()
        with suppress(ApiError, TimeoutError):
            async with asyncio.timeout(FRESH_NODE_S):
                return await self._tools.fresh_node()
        return self._tools.node()

    def _deadline(self, pod: Object) -> float | None:
        seconds = pod["spec"].get("activeDeadlineSeconds")
        if seconds is None:
            return None
        start = self._tools.statuses.known(pod).get("startTime")
        return (parse_rfc3339(start) if start else self._report.started_at) + float(seconds)

    async def _go_on(self, pod: Object, observed: ObservedPod, now: float) -> float:
        address = pod_address(observed, pod, self._tools.facts)
        self._resizing.allocate(pod)
        pod = self._resizing.sized(pod)
        self._resizing.adopt(pod, observed)
        self._prober.follow(pod, observed, address, False, self._tools.statuses.known(pod))
        hashes = {spec["name"]: container_hash(spec) for spec in pods.all_containers(pod)}
        found = plan(pod, observed, self._prober.results, self._backoff, hashes, now)
        self._report.note_back_off(pod, found)
        self._tell(pod, observed, found)
        if self._report.held:
            self._terminating = True
            return now
        wake_at = now + self._tools.sync_s * random.uniform(1.0, 1.25)
        deadline = self._deadline(pod)
        for moment in (found.wake_at, deadline):
            if moment is not None:
                wake_at = min(wake_at, moment)
        if observed.sandbox is not None and now - self._refreshed_at > self._tools.sync_s:
            await self._refresh_volumes(pod, address)
        if found.idle:
            again = await self._resizing.apply(pod, observed, address, now, lambda: self._tell(pod, observed))
            return wake_at if again is None else min(wake_at, again)
        if found.stop_pod:
            await podstop.stop(self._tools, pod, observed, pods.grace_s(pod))
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
                target_id = target_of(spec, observed)
                size = self._resizing.allocated.get(start.name)
                container_id = await self._tools.containers.start(pod, spec, start.attempt, sandbox, address, target_id)
                if size is not None:
                    self._resizing.applied[container_id] = size
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
            self._tell(pod, observed, found)
            return retry
        return None

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
        probe: Object = {}  # a container whose definition changed has its pod's time
        if self._prober.results.startup_failed(run.id):
            probe = spec.get("startupProbe") or {}
        elif self._prober.results.liveness_failed(run.id):
            probe = spec.get("livenessProbe") or {}
        own = probe.get("terminationGracePeriodSeconds")
        grace_s = pods.grace_s(pod) if own is None else int(own)
        await self._tools.containers.kill(
            pod, spec, run, self._address(observed), grace_s, kill.message, hooks=kill.hooks
        )

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
        self._prober.follow(pod, observed, self._address(observed), True, self._tools.statuses.known(pod))
        if observed.running or any(sandbox.ready for sandbox in observed.sandboxes):
            self._tell(pod, observed)
            await podstop.stop_with_patience(
                self._tools,
                lambda: self.pod,
                observed,
                self._grace_s,
                self._wake,
                lambda seen: self._tell(self.pod, seen),
            )
            observed = await self._observe()
            if observed.running or any(sandbox.ready for sandbox in observed.sandboxes):
                return time.time() + RETRY_S_MIN
        self.stopped.set()
        self._prober.stop()
        self._tools.freed()
        pod = self.pod
        try:
            await self._tools.devices.unprepare(self.uid)
        except DevicesFailed as failure:
            log.warning("pod %s: %s", pods.full_name(pod), failure)
            if not self._gone:
                self._tell(pod, observed)
            return time.time() + RETRY_S_MAX
        pod = self.pod
        if not self._gone and (observed.sandboxes or not pods.is_terminal(pod)):
            told = self._tell(pod, observed)
            if not pods.is_static(pod):  # which ends even while no apiserver hears of it
                await told
        self.finished = True
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

    def _grace_s(self) -> int:
        grace_s = min(pods.grace_s(self.pod), GRACE_GONE_S) if self._gone else pods.grace_s(self.pod)
        own = self._verdict.grace_s if self._verdict is not None else None
        return grace_s if own is None else min(grace_s, own)

    def _tell(self, pod: Object, observed: ObservedPod, found: Plan | None = None) -> "asyncio.Future[None]":
        """Writes the status; done once the API has it."""
        running = {run.name for run in observed.running if run is observed.latest(run.name)}
        waiting = {name: one for name, one in self._waiting.items() if name not in running}
        if found is not None:
            waiting |= {one.name: one for one in found.waiting}
        return self._report.write(pod, observed, waiting, self._verdict, self._terminating, self.stopped.is_set())

    def _event(self, pod: Object, kind: str, reason: str, message: str, field_path: str = "") -> None:
        self._tools.events.record(pod, kind, reason, message, field_path)
