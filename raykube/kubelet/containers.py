"""What is done to one container or sandbox, in the order and with the events that Kubernetes has."""

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from raykube.api.errors import ApiError
from raykube.client.events import EventRecorder
from raykube.kubelet.core import criconfig
from raykube.kubelet.core import environment as environments
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, ObservedSandbox
from raykube.kubelet.core.payload import PodFacts
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.podlog import tail_start
from raykube.kubelet.core.sources import SourceMissing, environment_references
from raykube.kubelet.cri import Cri
from raykube.kubelet.handlers import Handlers
from raykube.kubelet.objects import Objects
from raykube.kubelet.statuswriter import StatusWriter
from raykube.kubelet.volumes import VolumeFailed, Volumes
from raykube.pb import cri_pb2
from raykube.rpc import RpcError

LOG_TAIL_BYTES, LOG_TAIL_LINES = 2048, 80
GRACE_AFTER_HOOK_S_MIN = 2


class NotStarted(Exception):
    """A container did not start; `reason` is what its waiting state says."""

    def __init__(self, reason: str, message: str, created: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.created = created  # the runtime has a container for this attempt


def _place(spec: Object) -> str:
    return f"spec.containers{{{spec['name']}}}"


class ContainerActions:
    def __init__(
        self,
        cri: Cri,
        volumes: Volumes,
        objects: Objects,
        events: EventRecorder,
        statuses: StatusWriter,
        handlers: Handlers,
        node_name: str,
        host_ips: tuple[str, ...],
        allocatable: Callable[[], dict[str, str]],
        memory_bytes: int,
        services: Callable[[], Iterable[Object]],
        cluster_dns: list[str],
        cluster_domain: str,
        cgroup_root: str,
    ) -> None:
        self._cri = cri
        self._volumes = volumes
        self._objects = objects
        self._events = events
        self._statuses = statuses
        self._handlers = handlers
        self._node = node_name
        self._host_ips = host_ips
        self._allocatable = allocatable
        self._memory_bytes = memory_bytes
        self._services = services
        self._cluster_dns = cluster_dns
        self._cluster_domain = cluster_domain
        self._cgroup_root = cgroup_root

    def pod_facts(self, pod_ip: str) -> PodFacts:
        return PodFacts(pod_ip, self._host_ips, self._allocatable())

    # -- starting

    def _sandbox_config(self, pod: Object, attempt: int) -> cri_pb2.PodSandboxConfig:
        dns = criconfig.dns_config(pod, self._cluster_dns, self._cluster_domain)
        logs = str(self._volumes.log_directory(pod))
        return criconfig.sandbox_config(pod, self._node, attempt, logs, dns, self._cgroup_root)

    async def new_sandbox(self, pod: Object, attempt: int) -> None:
        """Makes the volumes ready, then the sandbox. Raises VolumeFailed, RpcError, ApiError."""
        await self._volumes.mount(pod, self.pod_facts(""))
        for volume in pod["spec"].get("volumes") or ():
            if self._volumes.lacks_memory(volume):
                message = f'emptyDir volume "{volume["name"]}" is on disk: this kubelet may not mount'
                self._events.record(pod, "Warning", "MediumNotSupported", message)
        self._volumes.log_directory(pod).mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            await self._cri.run_sandbox(self._sandbox_config(pod, attempt))
        except RpcError as error:
            message = f"Failed to create pod sandbox: rpc error: code = {error.code.name} desc = {error.message}"
            self._events.record(pod, "Warning", "FailedCreatePodSandBox", message)
            raise

    async def start(self, pod: Object, spec: Object, attempt: int, sandbox: ObservedSandbox, pod_ip: str) -> None:
        """Image, container, program, postStart hook. Raises NotStarted."""
        config = self._sandbox_config(pod, sandbox.attempt)
        image = cri_pb2.ImageSpec(image=spec.get("image", ""), user_specified_image=spec.get("image", ""))
        await self._ensure_image(pod, spec, image, config)
        environment, mounts = await self._prepare(pod, spec, attempt, pod_ip)
        (self._volumes.log_directory(pod) / spec["name"]).mkdir(mode=0o755, parents=True, exist_ok=True)
        wanted = criconfig.container_config(
            pod, spec, self._node, attempt, environment, mounts, image, self._memory_bytes
        )
        try:
            container_id = await self._cri.create_container(sandbox.id, wanted, config)
        except RpcError as error:
            self._events.record(pod, "Warning", "Failed", f"Error: {error.message}", _place(spec))
            raise NotStarted("CreateContainerError", error.message) from None
        self._events.record(pod, "Normal", "Created", f"Created container: {spec['name']}", _place(spec))
        try:
            await self._cri.start_container(container_id)
        except RpcError as error:
            self._events.record(pod, "Warning", "Failed", f"Error: {error.message}", _place(spec))
            raise NotStarted("RunContainerError", error.message, created=True) from None
        self._events.record(pod, "Normal", "Started", f"Started container {spec['name']}", _place(spec))
        await self._post_start(pod, spec, container_id, pod_ip)

    async def _prepare(
        self, pod: Object, spec: Object, attempt: int, pod_ip: str
    ) -> tuple[dict[str, str | bytes], list[cri_pb2.Mount]]:
        try:
            sources = await self._objects.sources(pod, environment_references(pod))
            environment = environments.environment(
                pod, spec, self._services(), sources, pod_ip, self._host_ips, self._allocatable()
            )
            # Volumes come before the sandbox; those that show the pod's address know it only now.
            await self._volumes.mount(pod, self.pod_facts(pod_ip))
            self._volumes.write_hosts(pod, pod_ip)
            return environment, self._volumes.mounts(pod, spec, attempt, environment)
        except (SourceMissing, ValueError, VolumeFailed, ApiError) as error:
            self._events.record(pod, "Warning", "Failed", f"Error: {error}", _place(spec))
            raise NotStarted("CreateContainerConfigError", str(error)) from None

    async def _ensure_image(
        self, pod: Object, spec: Object, image: cri_pb2.ImageSpec, sandbox: cri_pb2.PodSandboxConfig
    ) -> None:
        name = spec.get("image", "")
        policy = spec.get("imagePullPolicy") or "IfNotPresent"
        try:
            if policy != "Always" and await self._cri.image_present(image):
                message = f'Container image "{name}" already present on machine'
                self._events.record(pod, "Normal", "Pulled", message, _place(spec))
                return
            if policy == "Never":
                message = f'Container image "{name}" is not present with pull policy of Never'
                self._events.record(pod, "Warning", "ErrImageNeverPull", message, _place(spec))
                raise NotStarted("ErrImageNeverPull", message)
            self._events.record(pod, "Normal", "Pulling", f'Pulling image "{name}"', _place(spec))
            begun = time.monotonic()
            await self._cri.pull_image(image, sandbox)
            message = f'Successfully pulled image "{name}" in {int((time.monotonic() - begun) * 1000)}ms'
            self._events.record(pod, "Normal", "Pulled", message, _place(spec))
        except RpcError as error:
            message = f'Failed to pull image "{name}": {error.message}'
            self._events.record(pod, "Warning", "Failed", message, _place(spec))
            raise NotStarted("ErrImagePull", message) from None

    async def _post_start(self, pod: Object, spec: Object, container_id: str, pod_ip: str) -> None:
        hook = (spec.get("lifecycle") or {}).get("postStart")
        if not hook:
            return
        outcome = await self._handlers.run(hook, spec, container_id, pod_ip, 3600, "kube-lifecycle")
        if outcome.success:
            return
        message = f"PostStartHook failed: {outcome.message}"
        self._events.record(pod, "Warning", "FailedPostStartHook", message, _place(spec))
        await self._cri.stop_container(container_id, pods.grace_s(pod))
        raise NotStarted("PostStartHookError", message, created=True)

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
    ) -> None:
        """preStop hook within the grace period, then stop with what is left of it."""
        if hooks:
            text = message or f"Stopping container {run.name}"
            self._events.record(pod, "Normal", "Killing", text, _place(spec))
        hook = (spec.get("lifecycle") or {}).get("preStop")
        left = grace_s
        if hook and hooks and grace_s > 0:
            begun = time.monotonic()
            outcome = await self._handlers.run(hook, spec, run.id, pod_ip, grace_s, "kube-lifecycle")
            if not outcome.success:
                failure = f"PreStopHook failed: {outcome.message}"
                self._events.record(pod, "Warning", "FailedPreStopHook", failure, _place(spec))
            left = max(int(grace_s - (time.monotonic() - begun)), GRACE_AFTER_HOOK_S_MIN)
        await self._cri.stop_container(run.id, left)

    async def remove_all(self, observed: ObservedPod) -> None:
        """Removes the stopped containers and sandboxes of a pod that is leaving."""
        await asyncio.gather(*(self._cri.remove_container(run.id) for run in observed.containers))
        await asyncio.gather(*(self._cri.remove_sandbox(sandbox.id) for sandbox in observed.sandboxes))

    def forget(self, pod: Object) -> None:
        """Drops all that is kept for a pod that is gone."""
        self._volumes.remove(pods.uid(pod), self._volumes.log_directory(pod))
        self._objects.forget(pods.uid(pod))
        self._statuses.forget(pods.uid(pod))

    # -- what an ended container left

    def termination_message(self, pod: Object, run: ObservedContainer) -> str:
        spec = pods.container(pod, run.name) or {}
        message = self._volumes.termination_message(pods.uid(pod), run.name, run.attempt)
        falls_back = spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if message or not falls_back or run.exit_code == 0:
            return message
        return _log_tail(self._volumes.log_directory(pod) / run.name / f"{run.attempt}.log")


def _log_tail(path: Path) -> str:
    try:
        data = path.read_bytes()[-64 * 1024 :]
    except OSError:
        return ""
    lines = data[tail_start(data, LOG_TAIL_LINES) :].splitlines()
    text = b"\n".join(line.split(b" ", 3)[-1] for line in lines)
    return text[-LOG_TAIL_BYTES:].decode(errors="replace")
