"""Starting pods on a real containerd: the kubelet beside the bare CRI calls.

    make benchpods FLAGS='--parallel 20 --single 10 --repeat 3'        needs root, containerd, CNI plugins

Bare: RunPodSandbox, CreateContainer, StartContainer as the kubelet would send them, one task per pod, nothing else.
Kubelet: from the create's send-off until a watch shows the pod Running, through `raykube kv`, `raykube apiserver` and
`raykube kubelet` with certificates; the pods name their node, so no scheduler takes part. The two take turns on one
containerd, in namespaces of its own; pods are gone before the next turn. CPU is the kubelet's own; idle: while 30 pods
run and nothing happens. Run it alone on the machine.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raykube.bench.plane import PODS, ControlPlane, create, ready
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.informer import Informer
from raykube.kubelet.core.criconfig import NodeSettings, container_config, sandbox_config
from raykube.kubelet.core.dns import Dns
from raykube.kubelet.core.security import ImageFacts
from raykube.kubelet.cri import Cri
from raykube.pb import cri_pb2
from tests.kit.containerd import Containerd
from tests.kit.images import BUSYBOX

NODE, BARE_NODE = "bench", "bare"
TIMEOUT_S = 120
IDLE_PODS = 30
SETTLE_S = 5  # what follows a start: events, a status that changed


def pod(name: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": BUSYBOX,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "100000"],
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": NODE,
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
        },
    }


class Bare:
    """The calls, and nothing around them."""

    def __init__(self, containerd: Containerd) -> None:
        self._folder = containerd.folder / "bare"
        self._settings = NodeSettings(BARE_NODE, cgroup_root=containerd.cgroup_root)
        self._cri = Cri(containerd.endpoint, BARE_NODE, TIMEOUT_S)
        self._sandboxes: list[str] = []

    async def start(self, names: list[str]) -> float:
        """Seconds until all of them run."""
        begin = time.perf_counter()
        self._sandboxes += await asyncio.gather(*(self._start(name) for name in names))
        return time.perf_counter() - begin

    async def _start(self, name: str) -> str:
        found = pod(name)
        found["metadata"]["uid"] = name
        spec = found["spec"]["containers"][0]
        own = self._folder / name
        own.mkdir(parents=True)
        mounts = []
        for file, place in (("hosts", "/etc/hosts"), ("message", "/dev/termination-log")):
            (own / file).write_text("")
            mounts.append(cri_pb2.Mount(host_path=str(own / file), container_path=place))
        dns = Dns(("10.96.0.10",), ("cluster.local",))
        sandbox = sandbox_config(found, 0, str(own / "logs"), dns, self._settings)
        sandbox_id = await self._cri.run_sandbox(sandbox)
        config = container_config(found, spec, 0, {}, mounts, ImageFacts(BUSYBOX, BUSYBOX), self._settings)
        container_id = await self._cri.create_container(sandbox_id, config, sandbox)
        await self._cri.start_container(container_id)
        return sandbox_id

    async def remove(self) -> None:
        gone, self._sandboxes = self._sandboxes, []
        await asyncio.gather(*(self._cri.stop_sandbox(sandbox_id) for sandbox_id in gone))
        await asyncio.gather(*(self._cri.remove_sandbox(sandbox_id) for sandbox_id in gone))

    async def close(self) -> None:
        await self._cri.close()


class Ours:
    """Pods through an apiserver and the kubelet."""

    def __init__(self, plane: ControlPlane, client: ApiClient) -> None:
        self._plane, self._client = plane, client
        self._pods = Informer(client, PODS, field_selector=f"spec.nodeName={NODE}")
        self._pods.add_handler(self._note)
        self._following = asyncio.create_task(self._pods.run())
        self._running: set[str] = set()
        self._there: set[str] = set()
        self._changed = asyncio.Event()
        self.cpu_s: list[float] = []

    def _note(self, kind: str, old: Any, new: Any) -> None:
        name = (new or old)["metadata"]["name"]
        if kind == "DELETED":
            self._there.discard(name)
            self._running.discard(name)
        else:
            self._there.add(name)
            if new["status"].get("phase") == "Running":
                self._running.add(name)
        self._changed.set()

    async def _until(self, check: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while not check():
                self._changed.clear()
                await self._changed.wait()

    async def start(self, names: list[str]) -> float:
        """Seconds until a watch has shown all of them Running."""
        before = self._plane.usage()["kubelet"].cpu_s
        begin = time.perf_counter()
        await create(self._client, [pod(name) for name in names])
        await self._until(lambda: self._running >= set(names))
        taken = time.perf_counter() - begin
        self.cpu_s.append((self._plane.usage()["kubelet"].cpu_s - before) / len(names))
        return taken

    async def remove(self) -> None:
        await self._client.write([operations.delete(PODS, "default", name) for name in sorted(self._there)])
        await self._until(lambda: not self._there)

    async def idle(self, seconds: float) -> float:
        """The share of a core that the kubelet uses while its pods do nothing."""
        await self.start([f"idle-{number}" for number in range(IDLE_PODS)])
        await asyncio.sleep(SETTLE_S)
        before = self._plane.usage()["kubelet"].cpu_s
        await asyncio.sleep(seconds)
        used = self._plane.usage()["kubelet"].cpu_s - before
        await self.remove()
        return used / seconds

    async def close(self) -> None:
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)


def start_kubelet(plane: ControlPlane, containerd: Containerd) -> None:
    root = containerd.folder / "kubelet"
    root.mkdir()
    plane.run(
        "kubelet",
        hostname_override=NODE,
        node_ip="127.0.0.1",
        root_dir=root,
        container_runtime_endpoint=containerd.endpoint,
        cgroup_root=containerd.cgroup_root,
        api_servers=plane.api_address,
        kube_cert_file=plane.pem(f"node-{NODE}.crt"),
        kube_key_file=plane.pem(f"node-{NODE}.key"),
        kube_ca_file=plane.pem("ca.crt"),
        eviction_hard="memory.available<1Mi",
        port=0,
    )


async def measure(
    containerd: Containerd, plane: ControlPlane, single: int, parallel: int, repeat: int, idle_s: float
) -> tuple[dict[str, list[float]], float, float]:
    """Seconds by what was measured; the kubelet's CPU in seconds per pod, and as a share of a core when idle."""
    found: dict[str, list[float]] = {"bare one": [], "kubelet one": [], "bare many": [], "kubelet many": []}
    async with ApiClient([plane.api_address], plane.tls("admin")) as client:
        await ready(plane, client)
        start_kubelet(plane, containerd)
        ours, bare = Ours(plane, client), Bare(containerd)
        sides: dict[str, tuple[Callable[[list[str]], Awaitable[float]], Callable[[], Awaitable[None]]]] = {
            "bare": (bare.start, bare.remove),
            "kubelet": (ours.start, ours.remove),
        }
        try:
            for side, (start, remove) in sides.items():  # code is loaded, the bridge is made, the node is there
                await start([f"{side}-warm"])
                await remove()
            ours.cpu_s.clear()
            for turn in range(repeat):
                for number in range(single):
                    for side, (start, remove) in sides.items():
                        found[f"{side} one"].append(await start([f"{side}-{turn}-{number}"]))
                        await remove()
                for side, (start, remove) in sides.items():
                    found[f"{side} many"].append(await start([f"{side}-many-{turn}-{n}" for n in range(parallel)]))
                    await remove()
            cpu_s = statistics.median(ours.cpu_s)
            idle = await ours.idle(idle_s)
        finally:
            await ours.close()
            await bare.close()
    return found, cpu_s, idle


def show(console: Console, found: dict[str, list[float]], cpu_s: float, idle: float, parallel: int) -> None:
    table = Table("PODS AT ONCE", "BARE CRI MS", "KUBELET MS", "KUBELET / BARE", "TURNS", box=None)
    for label, kind in (("1", "one"), (str(parallel), "many")):
        bare, ours = found[f"bare {kind}"], found[f"kubelet {kind}"]
        low, high = statistics.median(bare), statistics.median(ours)
        table.add_row(label, f"{low * 1e3:,.0f}", f"{high * 1e3:,.0f}", f"{high / low:.2f}", str(len(ours)))
    console.print(table)
    console.print(
        f"medians; the kubelet's own CPU: {cpu_s * 1e3:.1f} ms a pod; {idle:.2%} of a core with {IDLE_PODS} idle"
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--single", type=int, default=10, help="pods one after the other, per turn")
    parser.add_argument("--parallel", type=int, default=20, help="pods at once")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--idle", type=float, default=60, help="seconds for which 30 pods do nothing")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="raykube-bench-") as folder,
        Containerd() as containerd,
        containerd.entered(),
    ):
        plane = ControlPlane(Path(folder))
        try:
            plane.start(scheduler=False)
            found, cpu_s, idle = asyncio.run(
                measure(containerd, plane, asked.single, asked.parallel, asked.repeat, asked.idle)
            )
        finally:
            plane.stop()
    show(Console(), found, cpu_s, idle, asked.parallel)


if __name__ == "__main__":
    main()
