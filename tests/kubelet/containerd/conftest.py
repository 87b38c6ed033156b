"""A kubelet in the test's process on a real containerd; both live in a network namespace of the test's own."""

import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from raykube.api.errors import ApiError
from tests.kit.containerd import Containerd
from tests.kit.images import BUSYBOX
from tests.kit.waiting import until
from tests.kubelet.conftest import NODE, PODS, Node, Object

_counter = itertools.count()


class ContainerdNode(Node):
    """A `Node` whose runtime is containerd, and outlives it."""

    image = BUSYBOX

    def __init__(self, containerd: Containerd, **flags: Any) -> None:
        root = containerd.folder / f"node{next(_counter)}"
        root.mkdir()
        own = {
            "container_runtime_endpoint": containerd.endpoint,
            "cgroup_root": containerd.cgroup_root,
            "node_ip": "127.0.0.1",
        }
        super().__init__(root, **(own | flags))
        self.containerd = containerd

    async def start_runtime(self) -> None:
        pass

    async def stop(self) -> None:
        await self.kubelet.stop()
        await self.client.close()
        await self.api.stop()

    async def empty(self) -> None:
        """Deletes every pod, and waits until nothing of them is left."""
        for plural, _, name in list(self.store.objects):
            if plural == "pods":
                try:
                    await self.client.delete(PODS, "default", name, grace_period_s=1)
                except ApiError as error:
                    assert error.code == 404
        await until(lambda: not any(key[0] == "pods" for key in self.store.objects), 60, "pods are deleted")

    def place(self, pod: Object, controller: str = "cpu") -> Path:
        """A pod's control group (v1)."""
        top = Path(f"/sys/fs/cgroup/{controller}{self.containerd.cgroup_root}/kubepods")
        places = [top / level / f"pod{pod['metadata']['uid']}" for level in ("", "burstable", "besteffort")]
        return next(place for place in places if place.is_dir())

    def cgroup(self, pod: Object, controller: str, file: str, container_id: str = "") -> str:
        """A control file of a pod, or of a container of it."""
        return (self.place(pod, controller) / container_id.rpartition("/")[2] / file).read_text().strip()


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    with Containerd() as containerd, containerd.entered():
        yield containerd


@pytest.fixture
async def node(containerd: Containerd, flags: dict[str, Any]) -> AsyncIterator[ContainerdNode]:
    node = ContainerdNode(containerd, **flags)
    await node.start()
    try:
        yield node
    finally:
        try:
            await node.empty()
        finally:
            await node.stop()  # a kubelet that went on would mount below a folder that is being removed


__all__ = ["NODE", "ContainerdNode", "containerd", "node"]
