"""The client side of CRI v1: what the kubelet asks of any runtime."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any

from raykube.kubelet.core import criconfig
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, ObservedSandbox
from raykube.kubelet.counted import Counted, Note
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc import channel as rpc
from raykube.streaming.core.channels import Channel


def failure(error: RpcError) -> str:
    """A runtime's refusal, in the words in which Kubernetes shows one."""
    name = error.code.name.title().replace("_", "").replace("Cancelled", "Canceled")
    return f"rpc error: code = {name} desc = {error.message or 'the container runtime gave no reason'}"


HEALTH_TIMEOUT_S = 10.0  # a runtime that hangs is told of within a few rounds of the node's status
SERVICES = cri_pb2.DESCRIPTOR.services_by_name


class Cri:
    """Sees only what carries this node's label."""

    def __init__(
        self, endpoint: str, node: str, timeout_s: float, note: Note = lambda name, seconds, failed: None
    ) -> None:
        path = endpoint.removeprefix("unix:")
        self._channel = rpc.Channel(f"unix:{path.removeprefix('//')}")
        self._runtime: Any = Counted(self._channel.stub(SERVICES["RuntimeService"]), note)
        self._images: Any = Counted(self._channel.stub(SERVICES["ImageService"]), note)
        self._node = node
        self._timeout_s = timeout_s
        self._health_timeout_s = min(timeout_s, HEALTH_TIMEOUT_S)

    async def close(self) -> None:
        await self._channel.close()

    async def version(self) -> cri_pb2.VersionResponse:
        request = cri_pb2.VersionRequest(version="0.1.0")
        answer: cri_pb2.VersionResponse = await self._runtime.Version(request, timeout=self._health_timeout_s)
        return answer

    async def status(self) -> cri_pb2.StatusResponse:
        request = cri_pb2.StatusRequest()
        answer: cri_pb2.StatusResponse = await self._runtime.Status(request, timeout=self._health_timeout_s)
        return answer

    async def info(self) -> dict[str, str]:
        """What the runtime tells of itself to whom it may concern: texts by name, "config" among them."""
        answer = await self._runtime.Status(cri_pb2.StatusRequest(verbose=True), timeout=self._timeout_s)
        return dict(answer.info)

    async def answers(self) -> bool:
        """Whether anybody is there."""
        try:
            await self.version()
        except RpcError:
            return False
        return True

    async def set_pod_cidr(self, cidr: str) -> None:
        config = cri_pb2.RuntimeConfig(network_config=cri_pb2.NetworkConfig(pod_cidr=cidr))
        request = cri_pb2.UpdateRuntimeConfigRequest(runtime_config=config)
        await self._runtime.UpdateRuntimeConfig(request, timeout=self._timeout_s)

    # -- what is there

    async def sandboxes(self, uid: str = "") -> list[cri_pb2.PodSandbox]:
        selector = {criconfig.NODE: self._node} | ({criconfig.POD_UID: uid} if uid else {})
        request = cri_pb2.ListPodSandboxRequest(filter=cri_pb2.PodSandboxFilter(label_selector=selector))
        return list((await self._runtime.ListPodSandbox(request, timeout=self._timeout_s)).items)

    async def containers(self, uid: str = "") -> list[cri_pb2.Container]:
        selector = {criconfig.NODE: self._node} | ({criconfig.POD_UID: uid} if uid else {})
        request = cri_pb2.ListContainersRequest(filter=cri_pb2.ContainerFilter(label_selector=selector))
        return list((await self._runtime.ListContainers(request, timeout=self._timeout_s)).containers)

    async def observe(self, uid: str) -> ObservedPod:
        """Everything of one pod, newest first."""
        sandboxes, containers = await asyncio.gather(self.sandboxes(uid), self.containers(uid))
        shown_sandboxes, shown_containers = await asyncio.gather(
            asyncio.gather(*(self._sandbox(item.id) for item in sandboxes)),
            asyncio.gather(*(self._container(item) for item in containers)),
        )
        return ObservedPod(
            tuple(sorted(filter(None, shown_sandboxes), key=lambda one: (-one.attempt, -one.created_at))),
            tuple(sorted(filter(None, shown_containers), key=lambda one: (-one.attempt, -one.created_at))),
        )

    async def _sandbox(self, sandbox_id: str) -> ObservedSandbox | None:
        request = cri_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        try:
            answer = await self._runtime.PodSandboxStatus(request, timeout=self._timeout_s)
        except RpcError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        return criconfig.observed_sandbox(answer.status)

    async def _container(self, item: cri_pb2.Container) -> ObservedContainer | None:
        request = cri_pb2.ContainerStatusRequest(container_id=item.id)
        try:
            answer = await self._runtime.ContainerStatus(request, timeout=self._timeout_s)
        except RpcError as error:
            if error.code is Code.NOT_FOUND:
                return None
            raise
        return criconfig.observed_container(answer.status, item.pod_sandbox_id)

    async def first_process(self, container_id: str) -> int:
        """The process id of a container's first process, as the runtime sees it; 0 where it tells none."""
        request = cri_pb2.ContainerStatusRequest(container_id=container_id, verbose=True)
        try:
            answer = await self._runtime.ContainerStatus(request, timeout=self._timeout_s)
        except RpcError as error:
            if error.code is Code.NOT_FOUND:
                return 0
            raise
        return criconfig.first_process(answer.info)

    async def events(self) -> AsyncIterator[str]:
        """The uid of a pod of ours whenever something happened to it. Raises RpcError (UNIMPLEMENTED: list instead)."""
        async for event in self._runtime.GetContainerEvents(cri_pb2.GetEventsRequest()):
            labels = event.pod_sandbox_status.labels
            if labels.get(criconfig.NODE) == self._node:
                yield labels.get(criconfig.POD_UID, "")

    async def stats(self) -> list[cri_pb2.ContainerStats]:
        selector = {criconfig.NODE: self._node}
        request = cri_pb2.ListContainerStatsRequest(filter=cri_pb2.ContainerStatsFilter(label_selector=selector))
        return list((await self._runtime.ListContainerStats(request, timeout=self._timeout_s)).stats)

    async def sandbox_stats(self) -> list[cri_pb2.PodSandboxStats]:
        """Of every sandbox, with its containers. Raises RpcError (UNIMPLEMENTED: `stats` instead)."""
        selector = {criconfig.NODE: self._node}
        request = cri_pb2.ListPodSandboxStatsRequest(filter=cri_pb2.PodSandboxStatsFilter(label_selector=selector))
        return list((await self._runtime.ListPodSandboxStats(request, timeout=self._timeout_s)).stats)

    # -- what is done

    async def run_sandbox(self, config: cri_pb2.PodSandboxConfig, handler: str = "") -> str:
        request = cri_pb2.RunPodSandboxRequest(config=config, runtime_handler=handler)
        return str((await self._runtime.RunPodSandbox(request, timeout=self._timeout_s)).pod_sandbox_id)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = cri_pb2.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._runtime.StopPodSandbox(request, timeout=self._timeout_s)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = cri_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._runtime.RemovePodSandbox(request, timeout=self._timeout_s)

    async def create_container(
        self, sandbox_id: str, config: cri_pb2.ContainerConfig, sandbox: cri_pb2.PodSandboxConfig
    ) -> str:
        request = cri_pb2.CreateContainerRequest(pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox)
        return str((await self._runtime.CreateContainer(request, timeout=self._timeout_s)).container_id)

    async def start_container(self, container_id: str) -> None:
        request = cri_pb2.StartContainerRequest(container_id=container_id)
        await self._runtime.StartContainer(request, timeout=self._timeout_s)

    async def update_container(self, container_id: str, resources: cri_pb2.LinuxContainerResources) -> None:
        request = cri_pb2.UpdateContainerResourcesRequest(container_id=container_id, linux=resources)
        await self._runtime.UpdateContainerResources(request, timeout=self._timeout_s)

    async def cgroup_driver(self) -> str:
        """ "systemd" or "cgroupfs"; "" from a runtime that does not say."""
        try:
            answer = await self._runtime.RuntimeConfig(cri_pb2.RuntimeConfigRequest(), timeout=self._timeout_s)
        except RpcError as error:
            if error.code is Code.UNIMPLEMENTED:
                return ""
            raise
        return "systemd" if answer.linux.cgroup_driver == cri_pb2.SYSTEMD else "cgroupfs"

    async def stop_container(self, container_id: str, grace_s: int) -> None:
        request = cri_pb2.StopContainerRequest(container_id=container_id, timeout=grace_s)
        try:
            await self._runtime.StopContainer(request, timeout=grace_s + self._timeout_s)
        except RpcError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def remove_container(self, container_id: str) -> None:
        request = cri_pb2.RemoveContainerRequest(container_id=container_id)
        await self._runtime.RemoveContainer(request, timeout=self._timeout_s)

    async def reopen_log(self, container_id: str) -> None:
        request = cri_pb2.ReopenContainerLogRequest(container_id=container_id)
        await self._runtime.ReopenContainerLog(request, timeout=self._timeout_s)

    async def execute(self, container_id: str, command: list[str], timeout_s: int) -> tuple[int, bytes]:
        """Exit code and output of a command. Raises RpcError, DEADLINE_EXCEEDED at the time-out."""
        request = cri_pb2.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout_s)
        answer = await self._runtime.ExecSync(request, timeout=timeout_s + self._timeout_s)
        return answer.exit_code, answer.stdout + answer.stderr

    # -- streams: where the runtime serves one that was asked for

    async def exec_url(self, container_id: str, command: Sequence[str], wanted: Collection[Channel]) -> str:
        request = cri_pb2.ExecRequest(container_id=container_id, cmd=command, **_streams(wanted))
        return str((await self._runtime.Exec(request, timeout=self._timeout_s)).url)

    async def attach_url(self, container_id: str, wanted: Collection[Channel]) -> str:
        request = cri_pb2.AttachRequest(container_id=container_id, **_streams(wanted))
        return str((await self._runtime.Attach(request, timeout=self._timeout_s)).url)

    async def port_forward_url(self, sandbox_id: str) -> str:
        request = cri_pb2.PortForwardRequest(pod_sandbox_id=sandbox_id)
        return str((await self._runtime.PortForward(request, timeout=self._timeout_s)).url)

    # -- images

    async def images(self) -> list[cri_pb2.Image]:
        """Every image of the runtime, whoever brought it."""
        return list((await self._images.ListImages(cri_pb2.ListImagesRequest(), timeout=self._timeout_s)).images)

    async def image_references(self) -> set[str]:
        """What containers call their images: all containers that the runtime shows, not only ours."""
        answer = await self._runtime.ListContainers(cri_pb2.ListContainersRequest(), timeout=self._timeout_s)
        found: set[str] = set()
        for item in answer.containers:
            found |= {item.image_ref, item.image_id, item.image.image}
        return found - {""}

    async def remove_image(self, name: str) -> None:
        request = cri_pb2.RemoveImageRequest(image=cri_pb2.ImageSpec(image=name))
        await self._images.RemoveImage(request, timeout=self._timeout_s)

    async def image_mountpoint(self) -> str:
        """A directory on the file system of the images; "" when the runtime names none."""
        answer = await self._images.ImageFsInfo(cri_pb2.ImageFsInfoRequest(), timeout=self._timeout_s)
        return next((one.fs_id.mountpoint for one in answer.image_filesystems), "")

    async def image(self, image: cri_pb2.ImageSpec) -> cri_pb2.Image | None:
        """What the runtime knows of an image; None when it does not have it."""
        answer = await self._images.ImageStatus(cri_pb2.ImageStatusRequest(image=image), timeout=self._timeout_s)
        return answer.image if answer.image.id else None

    async def pull_image(
        self, image: cri_pb2.ImageSpec, sandbox: cri_pb2.PodSandboxConfig, auth: cri_pb2.AuthConfig | None
    ) -> str:
        request = cri_pb2.PullImageRequest(image=image, sandbox_config=sandbox, auth=auth)
        # A pull takes as long as the network does.
        return str((await self._images.PullImage(request, timeout=3600)).image_ref)


def _streams(wanted: Collection[Channel]) -> dict[str, bool]:
    """The flags of an Exec or Attach request; a terminal is what has sizes."""
    return {
        "stdin": Channel.STDIN in wanted,
        "stdout": Channel.STDOUT in wanted,
        "stderr": Channel.STDERR in wanted,
        "tty": Channel.RESIZE in wanted,
    }
