"""Pods created in bulk until bound, through the real control plane: one store member, apiserver, scheduler, with TLS.

    python -m benchmarks.schedule [--nodes 100] [--pods 2000] [--owners 0] [--repeat 3]

The client is this process. Rates of the hops overlap: the scheduler binds while pods are still being created. CPU is
what each process used between the first create and the last binding seen, per pod. Run it alone on the machine.
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.control_plane import ControlPlane, Usage
from raykube.api.errors import ApiError
from raykube.api.resources import by_path
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.informer import Informer

PODS, NODES = by_path("", "v1", "pods"), by_path("", "v1", "nodes")
NAMESPACES = by_path("", "v1", "namespaces")
START_TIMEOUT_S = 60
BOUND_TIMEOUT_S = 300


def node(number: int) -> dict[str, Any]:
    amounts = {"cpu": "32", "memory": "128Gi", "pods": "250"}
    name = f"node-{number:05}"
    labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 3}"}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    return {
        "kind": "Node",
        "apiVersion": "v1",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]},
    }


def pod(number: int, owners: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": f"pod-{number:06}", "namespace": "default", "labels": {"app": "bench"}}
    if owners:
        uid = f"00000000-0000-0000-0000-{number % owners:012}"
        reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"rs-{number % owners}", "uid": uid}
        metadata["ownerReferences"] = [reference | {"controller": True}]
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}}
    container = {"name": "main", "image": "example.com/app:1", "command": ["/bin/true"], "resources": resources}
    spec = {"containers": [container], "automountServiceAccountToken": False, "enableServiceLinks": False}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": spec}


async def ready(plane: ControlPlane, client: ApiClient) -> None:
    """The apiserver answers, and namespace default with its ServiceAccount is there (nobody else makes it here)."""
    assert NAMESPACES is not None
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        plane.check()
        try:
            await client.get(NAMESPACES, "", "default", timeout=2)
            break
        except ApiError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
    account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default", "namespace": "default"}}
    await client.write([operations.create(account)])


async def create(client: ApiClient, objects: list[dict[str, Any]]) -> None:
    for result in await client.write([operations.create(obj) for obj in objects]):
        if result.code >= 400:
            raise RuntimeError(f"create: {result.body.decode()}")


class Run:
    """One measurement."""

    def __init__(self, nodes: int, pods: int, owners: int) -> None:
        self.nodes, self.pods, self.owners = nodes, pods, owners
        self.create_s = self.bind_s = self.seen_s = 0.0
        self.cpu_s: dict[str, float] = {}
        self.rss_kib: dict[str, int] = {}

    async def measure(self, folder: Path) -> None:
        assert PODS is not None
        plane = ControlPlane(folder)
        try:
            plane.start()
            async with ApiClient([plane.api_address], plane.tls("admin")) as client:
                await ready(plane, client)
                await create(client, [node(number) for number in range(self.nodes)])
                await self._warm_up(client)
                pods = [pod(number, self.owners) for number in range(self.pods)]
                await self._pods(plane, client, pods)
        finally:
            plane.stop()

    async def _warm_up(self, client: ApiClient) -> None:
        """A few pods through everything: the leader is elected, code is loaded."""
        assert PODS is not None
        await create(client, [pod(number, self.owners) for number in range(900_000, 900_020)])
        async with asyncio.timeout(START_TIMEOUT_S):
            while True:
                found, _ = await client.list(PODS, "default", field_selector="spec.nodeName!=")
                if len(found) == 20:
                    return
                await asyncio.sleep(0.1)

    async def _pods(self, plane: ControlPlane, client: ApiClient, pods: list[dict[str, Any]]) -> None:
        assert PODS is not None
        informer = Informer(client, PODS, field_selector="spec.nodeName!=")
        bound, done = 0, asyncio.Event()

        def count(kind: str, _old: Any, _new: Any) -> None:
            nonlocal bound
            bound += kind == "ADDED"
            if bound >= self.pods + 20:
                done.set()

        informer.add_handler(count)
        following = asyncio.create_task(informer.run())
        await informer.synced()
        before, own = plane.usage(), os.times()
        began = time.monotonic()
        try:
            await create(client, pods)
            self.create_s = time.monotonic() - began
            async with asyncio.timeout(BOUND_TIMEOUT_S):
                await done.wait()
            self.bind_s = time.monotonic() - began
            self._used(plane.usage(), before, own)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    def _used(self, after: dict[str, Usage], before: dict[str, Usage], own: os.times_result) -> None:
        now = os.times()
        self.cpu_s = {name: usage.cpu_s - before[name].cpu_s for name, usage in after.items()}
        self.cpu_s["client"] = now.user + now.system - own.user - own.system
        self.rss_kib = {name: usage.rss_kib for name, usage in after.items()}


def show(console: Console, runs: list[Run]) -> None:
    best = min(runs, key=lambda run: run.bind_s)
    console.print(
        f"{best.pods} pods on {best.nodes} nodes, best of {len(runs)}: "
        f"[bold]{best.pods / best.bind_s:,.0f} pods/s[/bold] created to bound "
        f"(all: {', '.join(f'{run.pods / run.bind_s:,.0f}' for run in runs)})"
    )
    hops = Table("HOP", "PODS/S", "SHARE OF THE TIME", box=None)
    hops.add_row("create acknowledged", f"{best.pods / best.create_s:,.0f}", f"{best.create_s / best.bind_s:.2f}")
    after = best.bind_s - best.create_s
    hops.add_row("scheduled and bound after that", "", f"{after / best.bind_s:.2f}")
    console.print(hops)
    table = Table("COMPONENT", "CPU µS/POD", "SHARE", "RSS MIB", box=None)
    total = sum(best.cpu_s.values())
    for name, cpu_s in best.cpu_s.items():
        rss = f"{best.rss_kib[name] / 1024:.0f}" if name in best.rss_kib else ""
        table.add_row(name, f"{cpu_s / best.pods * 1e6:,.0f}", f"{cpu_s / total:.2f}", rss)
    table.add_row("all", f"{total / best.pods * 1e6:,.0f}", "", f"{sum(best.rss_kib.values()) / 1024:.0f}")
    console.print(table)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--owners", type=int, default=0, help="pods belong to so many owners, and are spread")
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    runs = []
    for _ in range(asked.repeat):
        with tempfile.TemporaryDirectory(prefix="raykube-bench-") as folder:
            run = Run(asked.nodes, asked.pods, asked.owners)
            asyncio.run(run.measure(Path(folder)))
            runs.append(run)
    show(Console(), runs)


if __name__ == "__main__":
    main()
