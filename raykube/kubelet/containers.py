"""What is done to one container or sandbox, in the order and with the events that Kubernetes has."""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from pathlib import Path

from raykube.api.errors import ApiError
from raykube.client.events import EventRecorder
from raykube.kubelet.cgroups import PodCgroups
from raykube.kubelet.core import criconfig, sizes
from raykube.kubelet.core import environment as environments
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.criconfig import NodeSettings
from raykube.kubelet.core.deviceclaims import DevicesFailed
from raykube.kubelet.core.dns import NO_DNS, PodDns, parse_resolv_conf, pod_dns
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, ObservedSandbox, State
from raykube.kubelet.core.payload import PodFacts
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.podlog import tail_start
from raykube.kubelet.core.security import ImageFacts, root_refusal
from raykube.kubelet.core.sources import SourceMissing, environment_references
from raykube.kubelet.cri import Cri, failure
from raykube.kubelet.devices import Devices
from raykube.kubelet.handlers import Handlers
from raykube.kubelet.images import ImageFailed, Images
from raykube.kubelet.objects import Objects
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.volumes import VolumeFailed, Volumes
from raykube.kubelet.volumes.failure import words
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

LOG_TAIL_BYTES, LOG_TAIL_LINES = 2048, 80
LOG_TAIL_READ_BYTES = 64 * 1024  # of the file, in which those are looked for
GRACE_AFTER_HOOK_S_MIN = 2


class NotStarted(Exception):
    """A container did not start; `reason` is what its waiting state says."""

    def __init__(self, reason: str, message: str, created: bool = False, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.created = created  # the runtime has a container for this attempt
        self.retry_at = retry_at  # not before then; None: whoever asks knows


class SandboxFailed(Exception):
    """The runtime made no sandbox; an event says why."""


class ContainerActions:
    def __init__(
        self,
        cri: Cri,
        volumes: Volumes,
        devices: Devices,
        objects: Objects,
        events: EventRecorder,
        statuses: StatusWriter,
        handlers: Handlers,
        images: Images,
        cgroups: PodCgroups,
        settings: NodeSettings,
        host_ips: tuple[str, ...],
        allocatable: Callable[[], dict[str, str]],
        services: Callable[[], Iterable[Object]],
        cluster_dns: tuple[str, ...],
        resolv_conf: Path | None,
    ) -> None:
        self._cri = cri
        self._volumes = volumes
        self._devices = devices
        self._objects = objects
        self._events = events
        self._statuses = statuses
        self._handlers = handlers
        self._images = images
        self._cgroups = cgroups
        self._settings = settings
        self._host_ips = host_ips
        self._allocatable = allocatable
        self._services = services
        self._cluster_dns = cluster_dns
        self._resolv_conf = resolv_conf

    def pod_facts(self, pod_ip: str) -> PodFacts:
        return PodFacts(pod_ip, self._host_ips, self._allocatable())

    # -- starting

    def _dns(self, pod: Object) -> PodDns:
        host = NO_DNS
        if self._resolv_conf is not None:
            try:
                host = parse_resolv_conf(self._resolv_conf.read_text(errors="replace"))
            except OSError as error:
                log.warning("%s is not there for pods: %s", self._resolv_conf, error.strerror)
        return pod_dns(pod, host, self._cluster_dns, self._settings.cluster_domain)

    def _sandbox_config(self, pod: Object, attempt: int) -> cri_pb2.PodSandboxConfig:
        logs = str(self._volumes.log_directory(pod))
        return criconfig.sandbox_config(pod, attempt, logs, self._dns(pod).dns, self._settings)

    async def new_sandbox(self, pod: Object, attempt: int) -> None:
        """Makes volumes and devices ready, then the sandbox. Raises VolumeFailed, SandboxFailed, RpcError, ApiError."""
        if attempt > 0:
            message = "Pod sandbox changed, it will be killed and re-created."
            self._events.record(pod, "Normal", "SandboxChanged", message)
        await self._volumes.mount(pod, self.pod_facts(""))
        for volume in pod["spec"].get("volumes") or ():
            if self._volumes.lacks_memory(volume):
                message = f'emptyDir volume "{volume["name"]}" is on disk: this kubelet may not mount'
                self._events.record(pod, "Warning", "MediumNotSupported", message)
        try:
            self._volumes.log_directory(pod).mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            message = f"error making pod data directories: {words(error)}"
            self._events.record(pod, "Warning", "Failed", message)
            raise SandboxFailed(message) from None
        for reason, message in self._dns(pod).warnings:
            self._events.record(pod, "Warning", reason, message)
        try:
            await self._devices.prepare(pod)
        except DevicesFailed as problem:
            message = f"Failed to prepare dynamic resources: {problem}"
            self._events.record(pod, "Warning", "FailedPrepareDynamicResources", message)
            raise SandboxFailed(message) from None
        try:
            handler = await self._runtime_handler(pod)
            await self._cri.run_sandbox(self._sandbox_config(pod, attempt), handler)
        except (RpcError, ValueError) as error:
            why = failure(error) if isinstance(error, RpcError) else str(error)
            message = f"Failed to create pod sandbox: {why}"
            self._events.record(pod, "Warning", "FailedCreatePodSandBox", message)
            raise SandboxFailed(message) from None
        self._cgroups.apply(pod)

    async def _runtime_handler(self, pod: Object) -> str:
        """What the pod's RuntimeClass is called in the runtime. Raises ValueError when there is no such class."""
        name = pod["spec"].get("runtimeClassName")
        if not name:
            return ""
        found = await self._objects.runtime_class(name)
        if found is None:
            raise ValueError(f'failed to get sandbox runtime: runtimeclass.node.k8s.io "{name}" not found')
        return str(found.get("handler") or "")

    async def start(
        self,
        pod: Object,
        spec: Object,
        attempt: int,
        sandbox: ObservedSandbox,
        pod_ip: str,
        target_id: str = "",
    ) -> str:
        """Image, container, program, postStart hook; returns the container's id.

        `target_id`: the container that an ephemeral one looks into. Raises NotStarted, RpcError (no runtime answers).
        """
        config = self._sandbox_config(pod, sandbox.attempt)
        try:
            for volume in self._volumes.images(pod, spec):
                source = {"image": volume.get("reference") or "", "imagePullPolicy": volume.get("pullPolicy")}
                await self._images.ensure(pod, source, pods.field_path(pod, spec["name"]), config)
            image = await self._images.ensure(pod, spec, pods.field_path(pod, spec["name"]), config)
        except ImageFailed as problem:
            self._events.record(
                pod, "Warning", "Failed", f"Error: {problem.reason}", pods.field_path(pod, spec["name"])
            )
            raise NotStarted(problem.reason, problem.message, retry_at=problem.retry_at) from None
        environment, mounts, devices = await self._prepare(pod, spec, attempt, pod_ip, image)
        wanted = criconfig.container_config(pod, spec, attempt, environment, mounts, image, self._settings, target_id)
        wanted.devices.extend(devices)
        wanted.CDI_devices.extend(cri_pb2.CDIDevice(name=name) for name in self._devices.cdi_names(pod, spec))
        try:
            container_id = await self._cri.create_container(sandbox.id, wanted, config)
        except RpcError as error:
            raise self._refused(pod, spec, "CreateContainerError", error) from None
        self._events.record(pod, "Normal", "Created", "Container created", pods.field_path(pod, spec["name"]))
        try:
            await self._cri.start_container(container_id)
        except RpcError as error:
            raise self._refused(pod, spec, "RunContainerError", error, created=True) from None
        self._events.record(pod, "Normal", "Started", "Container started", pods.field_path(pod, spec["name"]))
        await self._post_start(pod, spec, container_id, pod_ip)
        return container_id

    def _refused(
        self, pod: Object, spec: Object, reason: str, error: RpcError, created: bool = False
    ) -> "NotStarted | RpcError":
        if error.code is Code.UNAVAILABLE:
            return error  # the runtime is away: nothing is wrong with the container
        self._events.record(pod, "Warning", "Failed", f"Error: {error.message}", pods.field_path(pod, spec["name"]))
        return NotStarted(reason, error.message, created=created)

    async def _prepare(
        self, pod: Object, spec: Object, attempt: int, pod_ip: str, image: ImageFacts
    ) -> tuple[dict[str, str | bytes], list[cri_pb2.Mount], list[cri_pb2.Device]]:
        try:
            refusal = root_refusal(pod, spec, image)
            if refusal:
                raise ValueError(refusal)
            sources = await self._objects.sources(pod, environment_references(pod))
            sources = replace(sources, files=self._volumes.env_files(pod, spec))
            environment = environments.environment(
                pod, spec, self._services(), sources, pod_ip, self._host_ips, self._allocatable()
            )
            await self._devices.prepare(pod)  # long ready, unless its record was lost
            # Volumes come before the sandbox; those that show the pod's address know it only now.
            await self._volumes.mount(pod, self.pod_facts(pod_ip))
            self._volumes.write_hosts(pod, pod_ip, self._settings.cluster_domain)
            mounts = await self._volumes.mounts(pod, spec, attempt, environment)
            (self._volumes.log_directory(pod) / spec["name"]).mkdir(mode=0o755, parents=True, exist_ok=True)
            return environment, mounts, self._volumes.devices(pod, spec)
        except (SourceMissing, ValueError, VolumeFailed, DevicesFailed, ApiError, OSError) as error:
            self._events.record(pod, "Warning", "Failed", f"Error: {words(error)}", pods.field_path(pod, spec["name"]))
            raise NotStarted("CreateContainerConfigError", words(error)) from None

    # -- changing

    async def resize(self, pod: Object, spec: Object, container_id: str) -> None:
        """Gives a running container the resources that the pod's spec has. Raises RpcError."""
        settings = self._settings
        wanted = sizes.resources(pod, spec, settings.memory_bytes, settings.unified_hierarchy)
        await self._cri.update_container(container_id, wanted)

    def resize_pod(self, pod: Object) -> None:
        """Gives the pod as a whole the resources that its spec has."""
        self._cgroups.apply(pod)

    async def _post_start(self, pod: Object, spec: Object, container_id: str, pod_ip: str) -> None:
        hook = (spec.get("lifecycle") or {}).get("postStart")
        if not hook:
            return
        outcome = await self._handlers.run(hook, spec, container_id, pod_ip, 3600, hook=True)
        if outcome.success:
            return
        # What the program answered is in the pod's status alone: it may be a secret, and who reads events is not asked.
        self._events.record(
            pod, "Warning", "FailedPostStartHook", "PostStartHook failed", pods.field_path(pod, spec["name"])
        )
        self._events.record(pod, "Normal", "Killing", "FailedPostStartHook", pods.field_path(pod, spec["name"]))
        await self._cri.stop_container(container_id, pods.grace_s(pod))
        raise NotStarted("PostStartHookError", f"PostStartHook failed: {outcome.message}", created=True)

    # -- stopping

    async def kill(
        self,
        pod: Object,
        spec: Object,
        run: ObservedContainer,
        pod_ip: str,
        grace_s: int,
        message: str,
        hooks: bool = True,
        turn: Callable[[float], Awaitable[object]] | None = None,
    ) -> None:
        """preStop hook within the grace period, then stop with what is left of it.

        `turn` is awaited between the two, with the seconds that are left: others may have to end first.
        """
        if hooks or message:
            text = message or f"Stopping container {run.name}"
            self._events.record(pod, "Normal", "Killing", text, pods.field_path(pod, spec["name"]))
        hook = (spec.get("lifecycle") or {}).get("preStop")
        begun, least = time.monotonic(), min(grace_s, GRACE_AFTER_HOOK_S_MIN)
        if hook and hooks and grace_s > 0:
            least = GRACE_AFTER_HOOK_S_MIN
            outcome = await self._handlers.run(hook, spec, run.id, pod_ip, grace_s, hook=True)
            if not outcome.success:
                self._events.record(
                    pod, "Warning", "FailedPreStopHook", "PreStopHook failed", pods.field_path(pod, spec["name"])
                )
                log.debug("pod %s: the preStop hook of %s: %s", pods.full_name(pod), run.name, outcome.message)
        if turn is not None:
            await turn(grace_s - (time.monotonic() - begun))
        await self._cri.stop_container(run.id, max(grace_s - int(time.monotonic() - begun), least))

    async def remove_all(self, pod: Object, observed: ObservedPod) -> None:
        """Removes the stopped containers, sandboxes and the control group of a pod that is leaving."""
        # Not what a status alone tells of (lostruns.py): whoever may write one could name another pod's container.
        shown = [run for run in observed.containers if run.sandbox_id]
        await asyncio.gather(*(self._cri.remove_container(run.id) for run in shown))
        await asyncio.gather(*(self._cri.remove_sandbox(sandbox.id) for sandbox in observed.sandboxes))
        self._cgroups.remove(pod)

    def forget(self, pod: Object) -> None:
        """Drops all that is kept for a pod that is gone."""
        self._volumes.remove(pods.uid(pod), self._volumes.log_directory(pod))
        self._objects.forget(pods.uid(pod))
        self._images.forget(pods.uid(pod))
        self._statuses.forget(pods.uid(pod))

    # -- what an ended container left

    def termination_message(self, pod: Object, run: ObservedContainer) -> str:
        spec = pods.container(pod, run.name) or {}
        message = self._volumes.termination_message(pods.uid(pod), run.name, run.attempt)
        falls_back = spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if message or not falls_back or run.exit_code == 0:
            return message
        return log_tail(self._volumes.log_directory(pod) / run.name / f"{run.attempt}.log")


def target_of(spec: Object, observed: ObservedPod) -> str:
    """The id of the container that an ephemeral one looks into; "" for none. Raises NotStarted."""
    name = spec.get("targetContainerName")
    if not name:
        return ""
    target = observed.latest(name)
    if target is None or target.state is not State.RUNNING:
        raise NotStarted("CreateContainerConfigError", f"unable to find target container {name}")
    return target.id


def log_tail(path: Path) -> str:
    """The last lines of a container's log, as Kubernetes bounds them; "" without a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - LOG_TAIL_READ_BYTES, 0))
            data = file.read(LOG_TAIL_READ_BYTES)
    except OSError:
        return ""
    lines = data[tail_start(data, LOG_TAIL_LINES) :].splitlines()
    text = b"\n".join(line.split(b" ", 3)[-1] for line in lines)
    return text[-LOG_TAIL_BYTES:].decode(errors="replace")
