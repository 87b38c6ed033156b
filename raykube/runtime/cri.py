# ruff: noqa: N802 - methods are named like the RPCs
"""CRI v1 for the process runtime: RuntimeService and ImageService.

There are no images: every name is present, under an id that says so, and containers name their program themselves.
"""

import time
from collections.abc import AsyncIterator

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call
from raykube.runtime import stats
from raykube.runtime.containers import Runtime
from raykube.runtime.core import answers
from raykube.runtime.core.records import Container, Sandbox
from raykube.runtime.streaming import StreamingServer

NAME = "raykube-process"
API_VERSION = "v1"
IMAGE_BYTES = 1  # clients take an image of no bytes for a broken one


class RuntimeHandler:
    """runtime.v1.RuntimeService."""

    def __init__(self, runtime: Runtime, streaming: StreamingServer, version: str) -> None:
        self._runtime = runtime
        self._streaming = streaming
        self._version = version

    async def Version(self, request: cri_pb2.VersionRequest, _call: Call) -> cri_pb2.VersionResponse:
        return cri_pb2.VersionResponse(
            version=request.version or "0.1.0",
            runtime_name=NAME,
            runtime_version=self._version,
            runtime_api_version=API_VERSION,
        )

    async def Status(self, request: cri_pb2.StatusRequest, _call: Call) -> cri_pb2.StatusResponse:
        conditions = [cri_pb2.RuntimeCondition(type=name, status=True) for name in ("RuntimeReady", "NetworkReady")]
        features = cri_pb2.RuntimeHandlerFeatures(recursive_read_only_mounts=True)
        response = cri_pb2.StatusResponse(
            status=cri_pb2.RuntimeStatus(conditions=conditions),
            runtime_handlers=[cri_pb2.RuntimeHandler(name="", features=features)],
        )
        if request.verbose:
            for name in ("cpu", "memory"):
                enforced = name in self._runtime.limits
                response.info[f"{name}Limits"] = "enforced" if enforced else "not enforced: no writable control groups"
        return response

    async def RuntimeConfig(self, _request: cri_pb2.RuntimeConfigRequest, _call: Call) -> cri_pb2.RuntimeConfigResponse:
        return cri_pb2.RuntimeConfigResponse(linux=cri_pb2.LinuxRuntimeConfiguration(cgroup_driver=cri_pb2.CGROUPFS))

    async def UpdateRuntimeConfig(
        self, request: cri_pb2.UpdateRuntimeConfigRequest, _call: Call
    ) -> cri_pb2.UpdateRuntimeConfigResponse:
        if request.runtime_config.network_config.pod_cidr:
            self._runtime.set_pod_cidr(request.runtime_config.network_config.pod_cidr.split(",")[0])
        return cri_pb2.UpdateRuntimeConfigResponse()

    # -- sandboxes

    async def RunPodSandbox(self, request: cri_pb2.RunPodSandboxRequest, _call: Call) -> cri_pb2.RunPodSandboxResponse:
        return cri_pb2.RunPodSandboxResponse(pod_sandbox_id=self._runtime.run_sandbox(request.config).id)

    async def StopPodSandbox(
        self, request: cri_pb2.StopPodSandboxRequest, _call: Call
    ) -> cri_pb2.StopPodSandboxResponse:
        await self._runtime.stop_sandbox(request.pod_sandbox_id)
        return cri_pb2.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri_pb2.RemovePodSandboxRequest, _call: Call
    ) -> cri_pb2.RemovePodSandboxResponse:
        await self._runtime.remove_sandbox(request.pod_sandbox_id)
        return cri_pb2.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: cri_pb2.PodSandboxStatusRequest, _call: Call
    ) -> cri_pb2.PodSandboxStatusResponse:
        sandbox = self._runtime.sandbox(request.pod_sandbox_id)
        return cri_pb2.PodSandboxStatusResponse(
            status=answers.sandbox_status(sandbox),
            containers_statuses=[
                answers.container_status(live.record) for live in self._runtime.containers_of(sandbox.id)
            ],
            timestamp=time.time_ns(),
        )

    async def ListPodSandbox(
        self, request: cri_pb2.ListPodSandboxRequest, _call: Call
    ) -> cri_pb2.ListPodSandboxResponse:
        found = [one for one in self._runtime.sandboxes() if answers.sandbox_matches(one, request.filter)]
        return cri_pb2.ListPodSandboxResponse(items=[answers.sandbox_item(sandbox) for sandbox in found])

    # -- containers

    async def CreateContainer(
        self, request: cri_pb2.CreateContainerRequest, _call: Call
    ) -> cri_pb2.CreateContainerResponse:
        record = self._runtime.create_container(
            request.pod_sandbox_id, request.config, request.sandbox_config.log_directory
        )
        return cri_pb2.CreateContainerResponse(container_id=record.id)

    async def StartContainer(
        self, request: cri_pb2.StartContainerRequest, _call: Call
    ) -> cri_pb2.StartContainerResponse:
        await self._runtime.start_container(request.container_id)
        return cri_pb2.StartContainerResponse()

    async def StopContainer(self, request: cri_pb2.StopContainerRequest, _call: Call) -> cri_pb2.StopContainerResponse:
        await self._runtime.stop_container(request.container_id, request.timeout)
        return cri_pb2.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri_pb2.RemoveContainerRequest, _call: Call
    ) -> cri_pb2.RemoveContainerResponse:
        await self._runtime.remove_container(request.container_id)
        return cri_pb2.RemoveContainerResponse()

    async def ListContainers(
        self, request: cri_pb2.ListContainersRequest, _call: Call
    ) -> cri_pb2.ListContainersResponse:
        found = [one for one in self._runtime.containers() if answers.container_matches(one, request.filter)]
        return cri_pb2.ListContainersResponse(containers=[answers.container_item(record) for record in found])

    async def ContainerStatus(
        self, request: cri_pb2.ContainerStatusRequest, _call: Call
    ) -> cri_pb2.ContainerStatusResponse:
        record = self._runtime.container(request.container_id).record
        response = cri_pb2.ContainerStatusResponse(status=answers.container_status(record))
        if request.verbose and record.started is not None:
            response.info["pid"] = str(record.started.pid)
        return response

    async def UpdateContainerResources(
        self, request: cri_pb2.UpdateContainerResourcesRequest, _call: Call
    ) -> cri_pb2.UpdateContainerResourcesResponse:
        self._runtime.update_resources(request.container_id, request.linux)
        return cri_pb2.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: cri_pb2.ReopenContainerLogRequest, _call: Call
    ) -> cri_pb2.ReopenContainerLogResponse:
        self._runtime.reopen_log(request.container_id)
        return cri_pb2.ReopenContainerLogResponse()

    async def ExecSync(self, request: cri_pb2.ExecSyncRequest, _call: Call) -> cri_pb2.ExecSyncResponse:
        result = await self._runtime.execute(request.container_id, list(request.cmd), request.timeout or None)
        if result.timed_out:
            message = f"command {' '.join(request.cmd)!r} timed out after {request.timeout}s"
            raise RpcError(Code.DEADLINE_EXCEEDED, message)
        return cri_pb2.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.code)

    async def Exec(self, request: cri_pb2.ExecRequest, _call: Call) -> cri_pb2.ExecResponse:
        _check_streams(request)
        self._runtime.entry(request.container_id, list(request.cmd), terminal=request.tty)
        return cri_pb2.ExecResponse(url=self._streaming.url("exec", request))

    async def Attach(self, request: cri_pb2.AttachRequest, _call: Call) -> cri_pb2.AttachResponse:
        _check_streams(request)
        self._runtime.attachable(request.container_id)
        return cri_pb2.AttachResponse(url=self._streaming.url("attach", request))

    async def PortForward(self, request: cri_pb2.PortForwardRequest, _call: Call) -> cri_pb2.PortForwardResponse:
        sandbox = self._runtime.sandbox(request.pod_sandbox_id)
        if not sandbox.ready:
            raise RpcError(Code.FAILED_PRECONDITION, f'sandbox "{sandbox.id}" is not running')
        return cri_pb2.PortForwardResponse(url=self._streaming.url("portforward", request))

    async def GetContainerEvents(
        self, _request: cri_pb2.GetEventsRequest, _call: Call
    ) -> AsyncIterator[cri_pb2.ContainerEventResponse]:
        async for event in self._runtime.events.listen():
            yield event

    # -- usage

    def _container_stats(self, record: Container) -> cri_pb2.ContainerStats:
        usage = self._runtime.usage(record)
        return cri_pb2.ContainerStats(
            attributes=answers.attributes(record), cpu=stats.cpu_usage(usage), memory=stats.memory_usage(usage)
        )

    def _sandbox_stats(self, sandbox: Sandbox) -> cri_pb2.PodSandboxStats:
        running = [
            live.record
            for live in self._runtime.containers_of(sandbox.id)
            if live.record.state == cri_pb2.CONTAINER_RUNNING
        ]
        usages = [self._runtime.usage(record) for record in running]
        total = stats.Usage(
            sum(usage.cpu_ns for usage in usages),
            sum(usage.rss_bytes for usage in usages),
            sum(usage.processes for usage in usages),
            sum(usage.page_faults for usage in usages),
            sum(usage.major_faults for usage in usages),
        )
        return cri_pb2.PodSandboxStats(
            attributes=cri_pb2.PodSandboxAttributes(
                id=sandbox.id,
                metadata=sandbox.config.metadata,
                labels=sandbox.config.labels,
                annotations=sandbox.config.annotations,
            ),
            linux=cri_pb2.LinuxPodSandboxStats(
                cpu=stats.cpu_usage(total),
                memory=stats.memory_usage(total),
                process=cri_pb2.ProcessUsage(
                    timestamp=time.time_ns(), process_count=cri_pb2.UInt64Value(value=total.processes)
                ),
                containers=[self._container_stats(record) for record in running],
            ),
        )

    async def ContainerStats(
        self, request: cri_pb2.ContainerStatsRequest, _call: Call
    ) -> cri_pb2.ContainerStatsResponse:
        record = self._runtime.container(request.container_id).record
        return cri_pb2.ContainerStatsResponse(stats=self._container_stats(record))

    async def ListContainerStats(
        self, request: cri_pb2.ListContainerStatsRequest, _call: Call
    ) -> cri_pb2.ListContainerStatsResponse:
        found = [
            record
            for record in self._runtime.containers()
            if record.state == cri_pb2.CONTAINER_RUNNING and answers.container_matches(record, request.filter)
        ]
        return cri_pb2.ListContainerStatsResponse(stats=[self._container_stats(record) for record in found])

    async def PodSandboxStats(
        self, request: cri_pb2.PodSandboxStatsRequest, _call: Call
    ) -> cri_pb2.PodSandboxStatsResponse:
        sandbox = self._runtime.sandbox(request.pod_sandbox_id)
        return cri_pb2.PodSandboxStatsResponse(stats=self._sandbox_stats(sandbox))

    async def ListPodSandboxStats(
        self, request: cri_pb2.ListPodSandboxStatsRequest, _call: Call
    ) -> cri_pb2.ListPodSandboxStatsResponse:
        wanted = cri_pb2.PodSandboxFilter(id=request.filter.id, label_selector=request.filter.label_selector)
        found = [one for one in self._runtime.sandboxes() if answers.sandbox_matches(one, wanted)]
        return cri_pb2.ListPodSandboxStatsResponse(stats=[self._sandbox_stats(sandbox) for sandbox in found])


def _check_streams(request: cri_pb2.ExecRequest | cri_pb2.AttachRequest) -> None:
    if request.tty and request.stderr:
        raise RpcError(Code.INVALID_ARGUMENT, "tty and stderr cannot both be true")
    if not (request.stdin or request.stdout or request.stderr):
        raise RpcError(Code.INVALID_ARGUMENT, "one of stdin, stdout, or stderr must be set")


class ImageHandler:
    """runtime.v1.ImageService, without images."""

    def __init__(self, root: str) -> None:
        self._root = root

    async def ListImages(self, _request: cri_pb2.ListImagesRequest, _call: Call) -> cri_pb2.ListImagesResponse:
        return cri_pb2.ListImagesResponse()

    async def ImageStatus(self, request: cri_pb2.ImageStatusRequest, _call: Call) -> cri_pb2.ImageStatusResponse:
        name = request.image.image
        image = cri_pb2.Image(id=answers.image_id(name), repo_tags=[name], size=IMAGE_BYTES, spec=request.image)
        return cri_pb2.ImageStatusResponse(image=image)

    async def PullImage(self, request: cri_pb2.PullImageRequest, _call: Call) -> cri_pb2.PullImageResponse:
        return cri_pb2.PullImageResponse(image_ref=answers.image_id(request.image.image))

    async def RemoveImage(self, _request: cri_pb2.RemoveImageRequest, _call: Call) -> cri_pb2.RemoveImageResponse:
        return cri_pb2.RemoveImageResponse()

    async def ImageFsInfo(self, _request: cri_pb2.ImageFsInfoRequest, _call: Call) -> cri_pb2.ImageFsInfoResponse:
        usage = cri_pb2.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=cri_pb2.FilesystemIdentifier(mountpoint=self._root),
            used_bytes=cri_pb2.UInt64Value(value=0),
            inodes_used=cri_pb2.UInt64Value(value=0),
        )
        return cri_pb2.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])
