"""A real runtime on a socket of its own, and a client for it."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import cri_pb2
from raykube.rpc.channel import Channel
from raykube.runtime.config import Config
from raykube.runtime.service import Service

SERVICES = cri_pb2.DESCRIPTOR.services_by_name


class Machine:
    """A runtime that can be stopped and started again on the same directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = Config(
            listen=f"unix://{root}/cri.sock",
            root_dir=root / "state",
            pod_cidr="127.77.3.0/24",
            node_name="m1",
            cluster=root.name,
        )
        self.service = Service(self.config)
        self.attempt = 0

    async def start(self) -> None:
        self.service = Service(self.config)
        await self.service.start()
        self.channel = Channel(f"unix:{self.root}/cri.sock")
        self.cri: Any = self.channel.stub(SERVICES["RuntimeService"])
        self.images: Any = self.channel.stub(SERVICES["ImageService"])

    async def stop(self) -> None:
        await self.channel.close()
        await self.service.stop()

    async def sandbox(self, name: str = "pod", **config: Any) -> str:
        wanted = cri_pb2.PodSandboxConfig(
            metadata=cri_pb2.PodSandboxMetadata(name=name, namespace="default", uid=f"uid-{name}"),
            hostname=name,
            log_directory=str(self.root / "logs" / name),
            labels={"pod": name},
            **config,
        )
        return str((await self.cri.RunPodSandbox(cri_pb2.RunPodSandboxRequest(config=wanted))).pod_sandbox_id)

    async def create(self, sandbox: str, *command: str, name: str = "main", **config: Any) -> str:
        self.attempt += 1
        wanted = cri_pb2.ContainerConfig(
            metadata=cri_pb2.ContainerMetadata(name=name, attempt=self.attempt),
            image=cri_pb2.ImageSpec(image="any"),
            command=command,
            log_path=f"{name}_{self.attempt}.log",
            labels={"container": name},
            **config,
        )
        request = cri_pb2.CreateContainerRequest(pod_sandbox_id=sandbox, config=wanted)
        return str((await self.cri.CreateContainer(request)).container_id)

    async def start_container(self, container: str) -> None:
        await self.cri.StartContainer(cri_pb2.StartContainerRequest(container_id=container))

    async def run(self, sandbox: str, *command: str, **config: Any) -> str:
        container = await self.create(sandbox, *command, **config)
        await self.start_container(container)
        return container

    async def status(self, container: str) -> cri_pb2.ContainerStatus:
        answer = await self.cri.ContainerStatus(cri_pb2.ContainerStatusRequest(container_id=container))
        status: cri_pb2.ContainerStatus = answer.status
        return status

    async def pid(self, container: str) -> int:
        request = cri_pb2.ContainerStatusRequest(container_id=container, verbose=True)
        return int((await self.cri.ContainerStatus(request)).info["pid"])

    async def exited(self, container: str, timeout_s: float = 20) -> cri_pb2.ContainerStatus:
        deadline = time.monotonic() + timeout_s
        while True:
            status = await self.status(container)
            if status.state == cri_pb2.CONTAINER_EXITED:
                return status
            assert time.monotonic() < deadline, f"{container} does not end within {timeout_s} s"
            await asyncio.sleep(0.02)

    async def output(self, container: str) -> str:
        """The text of an exited container's log."""
        status = await self.exited(container)
        lines = Path(status.log_path).read_text().splitlines()
        return "\n".join(line.split(" ", 3)[3] for line in lines)

    async def stop_container(self, container: str, grace_s: int = 0) -> None:
        await self.cri.StopContainer(cri_pb2.StopContainerRequest(container_id=container, timeout=grace_s))


@pytest.fixture
def root() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="rk-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def machine(root: Path) -> AsyncIterator[Machine]:
    machine = Machine(root)
    await machine.start()
    yield machine
    answer = await machine.cri.ListPodSandbox(cri_pb2.ListPodSandboxRequest())
    for sandbox in answer.items:
        await machine.cri.RemovePodSandbox(cri_pb2.RemovePodSandboxRequest(pod_sandbox_id=sandbox.id))
    await machine.stop()
    assert not leftovers(root.name)


def leftovers(cluster: str) -> list[str]:
    """The processes that carry a cluster's mark."""
    mark = f"RAYKUBE_CLUSTER={cluster}".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found
