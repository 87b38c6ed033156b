"""A kubelet with a real runtime below it, and an apiserver over a dict above it."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.base.clock import rfc3339
from raykube.client.api import ApiClient
from raykube.kubelet.config import Config
from raykube.kubelet.parts import Parts
from raykube.kubelet.service import Service
from raykube.kubelet.volumes.removal import clear
from raykube.pb import api_pb2
from raykube.runtime.config import Config as RuntimeConfig
from raykube.runtime.service import Service as Runtime
from tests.kit.eviction import EVICTION_HARD, IMAGE_GC_HIGH_THRESHOLD
from tests.kit.memory_api import MemoryApi, MemoryStore, Object
from tests.kit.waiting import until
from tests.runtime.conftest import leftovers

PODS = builtin("v1", "Pod")
NODE = "n1"


class PodStore(MemoryStore):
    """Knows graceful deletion and tokens, which the plain one does not."""

    def write(self, op: api_pb2.Operation) -> Object:
        key = (op.resource.plural, op.namespace, op.name)
        if op.subresource == "token":
            expires = rfc3339(time.time() + 3600)
            return {"status": {"token": f"token-of-{op.name}", "expirationTimestamp": expires}}
        old = self.objects.get(key)
        if op.verb == api_pb2.DELETE and op.resource.plural == "pods" and old is not None:
            if op.uid and op.uid != old["metadata"]["uid"]:
                raise ApiError.conflict(PODS, op.name)
            options = orjson.loads(op.body) if op.body else {}
            grace = options.get("gracePeriodSeconds", old["spec"].get("terminationGracePeriodSeconds", 30))
            if grace > 0:
                stamp = {"deletionTimestamp": rfc3339(time.time() + grace), "deletionGracePeriodSeconds": grace}
                return self.put(key, old | {"metadata": old["metadata"] | stamp})
        return super().write(op)


class Node:
    """One machine: runtime and kubelet, each of which can be stopped and started."""

    image = "any"  # what that stands for

    def __init__(self, root: Path, **flags: Any) -> None:
        self.root = root
        self.store = PodStore()
        self.api = MemoryApi(self.store)
        self.flags = flags
        self.runtime_config = RuntimeConfig(
            listen=f"unix://{root}/cri.sock",
            root_dir=root / "runtime",
            pod_cidr="127.78.5.0/24",
            node_name=NODE,
            cluster=root.name,
        )

    async def start(self) -> None:
        self.address = await self.api.start()
        self.client = ApiClient([self.address])
        await self.start_runtime()
        await self.start_kubelet()

    async def start_runtime(self) -> None:
        self.runtime = Runtime(self.runtime_config)
        await self.runtime.start()

    async def start_kubelet(self, waits: bool = True) -> None:
        """`waits`: until a runtime answers it."""
        flags: dict[str, Any] = {
            "hostname_override": NODE,
            "node_ip": "127.78.0.2",
            "root_dir": self.root / "kubelet",
            "container_runtime_endpoint": f"unix://{self.root}/cri.sock",
            "api_servers": [self.address],
            "node_status_update_frequency": 0.5,
            "sync_frequency": 1.0,
            "eviction_hard": EVICTION_HARD,
            "image_gc_high_threshold": IMAGE_GC_HIGH_THRESHOLD,
        }
        self.kubelet = Service(Config(**(flags | self.flags)))
        await self.kubelet.start()
        if waits:
            await until(lambda: self.kubelet._workers.tools is not None, what="the runtime answers")

    @property
    def parts(self) -> Parts:
        """Those of the kubelet that runs now."""
        assert self.kubelet._parts is not None
        return self.kubelet._parts

    async def stop(self) -> None:
        await self.kubelet.stop()
        await self.runtime.stop()
        await self.client.close()
        await self.api.stop()

    async def pod(self, name: str, *containers: Object, **spec: Any) -> Object:
        every = [*containers, *spec.get("initContainers", ()), *spec.get("ephemeralContainers", ())]
        for one in every:
            if one.get("image") == "any":
                one["image"] = self.image
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"} | spec.pop("metadata", {}),
            "spec": {"nodeName": NODE, "restartPolicy": "Always", "containers": list(containers)}
            | {"terminationGracePeriodSeconds": 5}
            | spec,
        }
        return await self.client.create(pod)

    async def sees(self, name: str, condition: Callable[[Object], object], timeout_s: float = 20) -> Object:
        """The pod once `condition(pod)` is true."""
        pod: Object = {}
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pod = await self.client.get(PODS, "default", name)
            if condition(pod):
                return pod
            await asyncio.sleep(0.02)
        raise AssertionError(
            f"not within {timeout_s} s: {orjson.dumps(pod.get('status'), option=orjson.OPT_INDENT_2).decode()}"
        )

    async def phase(self, name: str, phase: str, timeout_s: float = 20) -> Object:
        return await self.sees(name, lambda pod: pod.get("status", {}).get("phase") == phase, timeout_s)

    async def gone(self, name: str, timeout_s: float = 20) -> None:
        deadline = time.monotonic() + timeout_s
        while ("pods", "default", name) in self.store.objects:
            assert time.monotonic() < deadline, self.store.objects["pods", "default", name]
            await asyncio.sleep(0.02)

    async def event(self, reason: str, message: str, timeout_s: float = 10) -> None:
        """Returns once there is an Event whose message begins with `message`."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [obj for key, obj in self.store.objects.items() if key[0] == "events"]
            if any(obj["reason"] == reason and obj["message"].startswith(message) for obj in found):
                return
            assert time.monotonic() < deadline, [(obj["reason"], obj["message"]) for obj in found]
            await asyncio.sleep(0.02)

    def log(self, name: str, container: str = "c", attempt: int = 0) -> str:
        (path,) = (self.root / "kubelet" / "logs" / "pods").glob(f"default_{name}_*/{container}/{attempt}.log")
        return "".join(line.split(" ", 3)[3] for line in path.read_text().splitlines(keepends=True))


def container(*command: str, name: str = "c", **spec: Any) -> Object:
    return {"name": name, "image": "any", "command": list(command)} | spec


def shell(script: str, name: str = "c", **spec: Any) -> Object:
    return container("sh", "-c", script, name=name, **spec)


def state(pod: Object, index: int = 0) -> Object:
    """The status of a container; of one that nobody reported yet, an empty one."""
    statuses = pod.get("status", {}).get("containerStatuses")
    return statuses[index] if statuses else {"state": {}, "lastState": {}, "ready": False, "restartCount": 0}


@pytest.fixture
def flags() -> dict[str, Any]:
    """Flags of the kubelet beyond the usual ones of these tests."""
    return {}


@asynccontextmanager
async def running_node(**flags: Any) -> AsyncIterator[Node]:
    """A node that leaves nothing behind."""
    root = Path(tempfile.mkdtemp(prefix="rk-"))
    root.chmod(0o755)
    node = Node(root, **flags)
    await node.start()
    try:
        yield node
    finally:
        await _end(node)
    assert not leftovers(root.name)
    clear(root)


async def _end(node: Node) -> None:
    await node.kubelet.stop()  # first: it would make anew what is removed
    for sandbox in list(node.runtime._runtime.sandboxes()):  # type: ignore[union-attr]
        await node.runtime._runtime.remove_sandbox(sandbox.id)  # type: ignore[union-attr]
    await node.stop()


@pytest.fixture
async def node(flags: dict[str, Any]) -> AsyncIterator[Node]:
    async with running_node(**flags) as node:
        yield node
