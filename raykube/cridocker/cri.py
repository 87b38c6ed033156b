# ruff: noqa: N802 - methods are named like the RPCs
"""CRI's RuntimeService over the Engine API."""

import time
from collections.abc import AsyncIterator

from raykube.cridocker.containers import Containers
from raykube.cridocker.core import answers, cni, labels
from raykube.cridocker.engine import Engine, EngineError
from raykube.cridocker.logs import Logs
from raykube.cridocker.network import Networks
from raykube.cridocker.sandboxes import Sandboxes
from raykube.cridocker.streams import StreamingServer
from raykube.cridocker.usage import Usage
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call

NAME = "docker"
API_VERSION = "v1"


class RuntimeHandler:
    """runtime.v1.RuntimeService."""

    def __init__(
        self,
        engine: Engine,
        networks: Networks | None,
        logs: Logs,
        sandboxes: Sandboxes,
        containers: Containers,
        streaming: StreamingServer,
    ) -> None:
        self._engine = engine
        self._networks = networks
        self._logs = logs
        self._sandboxes = sandboxes
        self._containers = containers
        self._streaming = streaming
        self._usage = Usage(engine, containers, sandboxes)

    async def Version(self, request: cri_pb2.VersionRequest, _call: Call) -> cri_pb2.VersionResponse:
        return cri_pb2.VersionResponse(
            version=request.version or "0.1.0",
            runtime_name=NAME,
            runtime_version=self._engine.version,
            runtime_api_version=API_VERSION,
        )

    async def Status(self, _request: cri_pb2.StatusRequest, _call: Call) -> cri_pb2.StatusResponse:
        runtime = cri_pb2.RuntimeCondition(type="RuntimeReady", status=True)
        network = cri_pb2.RuntimeCondition(type="NetworkReady", status=True)
        try:
            await self._engine.get("/version")
        except EngineError as error:
            runtime.status, runtime.reason, runtime.message = False, "DockerDaemonNotReady", f"docker: {error.message}"
        if self._networks is not None:
            try:
                self._networks.network()
            except cni.BadNetwork as error:
                message = f"docker: network plugin is not ready: cni config uninitialized: {error}"
                network.status, network.reason, network.message = False, "NetworkPluginNotReady", message
        features = cri_pb2.RuntimeHandlerFeatures(recursive_read_only_mounts=self._engine.api >= (1, 44))
        return cri_pb2.StatusResponse(
            status=cri_pb2.RuntimeStatus(conditions=[runtime, network]),
            runtime_handlers=[
                cri_pb2.RuntimeHandler(name=name, features=features)
                for name in ("", *sorted(self._engine.info.get("Runtimes") or {}))
            ],
        )

    async def RuntimeConfig(self, _request: cri_pb2.RuntimeConfigRequest, _call: Call) -> cri_pb2.RuntimeConfigResponse:
        driver = cri_pb2.SYSTEMD if self._engine.info.get("CgroupDriver") == "systemd" else cri_pb2.CGROUPFS
        return cri_pb2.RuntimeConfigResponse(linux=cri_pb2.LinuxRuntimeConfiguration(cgroup_driver=driver))

    async def UpdateRuntimeConfig(
        self, _request: cri_pb2.UpdateRuntimeConfigRequest, _call: Call
    ) -> cri_pb2.UpdateRuntimeConfigResponse:
        """The range of pods' addresses is the CNI file's, or that of docker's bridge (`--bip` of dockerd)."""
        return cri_pb2.UpdateRuntimeConfigResponse()

    # -- sandboxes

    async def RunPodSandbox(self, request: cri_pb2.RunPodSandboxRequest, _call: Call) -> cri_pb2.RunPodSandboxResponse:
        made = await self._sandboxes.run(request.config, request.runtime_handler)
        return cri_pb2.RunPodSandboxResponse(pod_sandbox_id=made)

    async def StopPodSandbox(
        self, request: cri_pb2.StopPodSandboxRequest, _call: Call
    ) -> cri_pb2.StopPodSandboxResponse:
        await self._sandboxes.stop(request.pod_sandbox_id)
        return cri_pb2.StopPodSandboxResponse()

    async def RemovePodSandbox(
        self, request: cri_pb2.RemovePodSandboxRequest, _call: Call
    ) -> cri_pb2.RemovePodSandboxResponse:
        await self._sandboxes.remove(request.pod_sandbox_id)
        return cri_pb2.RemovePodSandboxResponse()

    async def PodSandboxStatus(
        self, request: cri_pb2.PodSandboxStatusRequest, _call: Call
    ) -> cri_pb2.PodSandboxStatusResponse:
        status = await self._sandboxes.status(request.pod_sandbox_id)
        return cri_pb2.PodSandboxStatusResponse(status=status, timestamp=time.time_ns())

    async def ListPodSandbox(
        self, request: cri_pb2.ListPodSandboxRequest, _call: Call
    ) -> cri_pb2.ListPodSandboxResponse:
        return cri_pb2.ListPodSandboxResponse(items=await self._sandboxes.listed(request.filter))

    # -- containers

    async def CreateContainer(
        self, request: cri_pb2.CreateContainerRequest, _call: Call
    ) -> cri_pb2.CreateContainerResponse:
        made = await self._containers.create(request.pod_sandbox_id, request.config, request.sandbox_config)
        return cri_pb2.CreateContainerResponse(container_id=made)

    async def StartContainer(
        self, request: cri_pb2.StartContainerRequest, _call: Call
    ) -> cri_pb2.StartContainerResponse:
        await self._containers.start(request.container_id)
        return cri_pb2.StartContainerResponse()

    async def StopContainer(self, request: cri_pb2.StopContainerRequest, _call: Call) -> cri_pb2.StopContainerResponse:
        await self._containers.stop(request.container_id, request.timeout)
        return cri_pb2.StopContainerResponse()

    async def RemoveContainer(
        self, request: cri_pb2.RemoveContainerRequest, _call: Call
    ) -> cri_pb2.RemoveContainerResponse:
        await self._containers.remove(request.container_id)
        return cri_pb2.RemoveContainerResponse()

    async def ListContainers(
        self, request: cri_pb2.ListContainersRequest, _call: Call
    ) -> cri_pb2.ListContainersResponse:
        return cri_pb2.ListContainersResponse(containers=await self._containers.listed(request.filter))

    async def ContainerStatus(
        self, request: cri_pb2.ContainerStatusRequest, _call: Call
    ) -> cri_pb2.ContainerStatusResponse:
        status, inspected = await self._containers.status(request.container_id)
        response = cri_pb2.ContainerStatusResponse(status=status)
        if request.verbose:
            response.info["sandboxID"] = inspected["Config"]["Labels"].get(labels.SANDBOX, "")
            response.info["pid"] = str(inspected["State"]["Pid"])
        return response

    async def UpdateContainerResources(
        self, request: cri_pb2.UpdateContainerResourcesRequest, _call: Call
    ) -> cri_pb2.UpdateContainerResourcesResponse:
        await self._containers.update(request.container_id, request.linux)
        return cri_pb2.UpdateContainerResourcesResponse()

    async def ReopenContainerLog(
        self, request: cri_pb2.ReopenContainerLogRequest, _call: Call
    ) -> cri_pb2.ReopenContainerLogResponse:
        found = await self._containers.inspect(request.container_id)
        self._logs.reopen(found["Id"])
        return cri_pb2.ReopenContainerLogResponse()

    async def ExecSync(self, request: cri_pb2.ExecSyncRequest, _call: Call) -> cri_pb2.ExecSyncResponse:
        return await self._containers.execute(request.container_id, list(request.cmd), request.timeout)

    async def Exec(self, request: cri_pb2.ExecRequest, _call: Call) -> cri_pb2.ExecResponse:
        _check_streams(request)
        await self._containers.running(request.container_id)
        return cri_pb2.ExecResponse(url=self._streaming.url("exec", request))

    async def Attach(self, request: cri_pb2.AttachRequest, _call: Call) -> cri_pb2.AttachResponse:
        _check_streams(request)
        await self._containers.running(request.container_id)
        return cri_pb2.AttachResponse(url=self._streaming.url("attach", request))

    async def PortForward(self, request: cri_pb2.PortForwardRequest, _call: Call) -> cri_pb2.PortForwardResponse:
        status = await self._sandboxes.status(request.pod_sandbox_id)
        if status.state != cri_pb2.SANDBOX_READY:
            raise RpcError(Code.FAILED_PRECONDITION, f'sandbox "{status.id}" is not running')
        return cri_pb2.PortForwardResponse(url=self._streaming.url("portforward", request))

    async def GetContainerEvents(
        self, _request: cri_pb2.GetEventsRequest, _call: Call
    ) -> AsyncIterator[cri_pb2.ContainerEventResponse]:
        """Ends with UNAVAILABLE when docker does: the listener lists again."""
        filters = {"type": ["container"], "label": [labels.TYPE]}
        async for told in self._engine.lines("GET", "/events", filters=filters):
            if (event := answers.event(told)) is not None:
                yield event
        raise RpcError(Code.UNAVAILABLE, "Docker ended its events: list again")

    # -- usage

    async def ContainerStats(
        self, request: cri_pb2.ContainerStatsRequest, _call: Call
    ) -> cri_pb2.ContainerStatsResponse:
        found = await self._containers.inspect(request.container_id)
        stats = await self._usage.containers(found["Id"])
        if not stats:
            raise RpcError(Code.NOT_FOUND, f"container {request.container_id} is not running")
        return cri_pb2.ContainerStatsResponse(stats=stats[0])

    async def ListContainerStats(
        self, request: cri_pb2.ListContainerStatsRequest, _call: Call
    ) -> cri_pb2.ListContainerStatsResponse:
        wanted = request.filter
        stats = await self._usage.containers(wanted.id, wanted.pod_sandbox_id, dict(wanted.label_selector))
        return cri_pb2.ListContainerStatsResponse(stats=stats)

    async def PodSandboxStats(
        self, request: cri_pb2.PodSandboxStatsRequest, _call: Call
    ) -> cri_pb2.PodSandboxStatsResponse:
        found = await self._sandboxes.inspect(request.pod_sandbox_id)
        stats = await self._usage.sandboxes(found["Id"])
        if not stats:
            raise RpcError(Code.NOT_FOUND, f"sandbox {request.pod_sandbox_id} is not running")
        return cri_pb2.PodSandboxStatsResponse(stats=stats[0])

    async def ListPodSandboxStats(
        self, request: cri_pb2.ListPodSandboxStatsRequest, _call: Call
    ) -> cri_pb2.ListPodSandboxStatsResponse:
        stats = await self._usage.sandboxes(request.filter.id, dict(request.filter.label_selector))
        return cri_pb2.ListPodSandboxStatsResponse(stats=stats)


def _check_streams(request: cri_pb2.ExecRequest | cri_pb2.AttachRequest) -> None:
    if request.tty and request.stderr:
        raise RpcError(Code.INVALID_ARGUMENT, "tty and stderr cannot both be true")
    if not (request.stdin or request.stdout or request.stderr):
        raise RpcError(Code.INVALID_ARGUMENT, "one of stdin, stdout, or stderr must be set")
