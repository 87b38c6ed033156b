"""A kubelet in the test's process on a real dockerd; both live in a network namespace of the test's own."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.kit.docker import Docker
from tests.kubelet.conftest import NODE, flags
from tests.kubelet.containerd.conftest import ContainerdNode as DockerNode


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    docker = Docker()
    with docker, docker.entered():
        yield docker


@pytest.fixture
async def node(docker: Docker, flags: dict[str, Any]) -> AsyncIterator[DockerNode]:
    node = DockerNode(docker, **flags)
    await node.start()
    try:
        yield node
    finally:
        try:
            await node.empty()
        finally:
            await node.stop()  # a kubelet that went on would mount below a folder that is being removed


__all__ = ["NODE", "DockerNode", "docker", "flags", "node"]
