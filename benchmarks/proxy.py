"""Service rules in the kernel, beside kube-proxy's own layout: N Services with 4 endpoints each.

`full`: from Services and slices to installed rules, the table having been empty; `one change`: an endpoint of a Service
becomes another. Ours goes through the whole of kube-proxy's core and its child process; the peer is `nft -f -` of the
text of kube-proxy's layout (a chain per Service and one per endpoint), ready made: computing it is not counted.
The two take turns in one network namespace, one table at a time, for nft reads the chains of all tables. The fastest of
some full turns counts, and the median of many changes.

`live`: the time from an endpoint's change to its rule, at 100 changes a second, gathered as kube-proxy gathers them.

    make benchproxy FLAGS='--services 100,1000 --repeat 1'
"""

import argparse
import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from raykube.kubeproxy.config import Config
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.nftables.layout import Options
from raykube.kubeproxy.core.table import Table
from raykube.kubeproxy.nft_proxier import NftProxier, cleanup
from raykube.nftables.kernel import Kernel
from raykube.rpc.clock import SystemClock
from tests.kit.netns import Namespace

WIDTH_MIN = 100  # of the table
ENDPOINTS = 4
PODS = "10.0.0.0/8"
CHANGES_PER_S = 100
PAUSE_S = 0.05  # the kernel frees what a transaction deleted after it, and the next one waits for that


def _cluster_ip(n: int) -> str:
    return f"172.16.{n >> 8}.{n & 255}"


def _pod(n: int, place: int) -> str:
    return f"10.{place}.{n >> 8}.{n & 255}"


def _service(n: int) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "bench", "name": f"service-{n}"},
        "spec": {"clusterIPs": [_cluster_ip(n)], "ports": [{"port": 80, "protocol": "TCP"}]},
    }


def _slice(n: int, last: int = ENDPOINTS - 1) -> dict[str, Any]:
    places = [*range(ENDPOINTS - 1), last]
    return {
        "metadata": {
            "namespace": "bench",
            "name": f"service-{n}-a",
            "labels": {"kubernetes.io/service-name": f"service-{n}"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [_pod(n, p)], "nodeName": f"m{p}", "conditions": {"ready": True}} for p in places],
    }


class Ours:
    """kube-proxy's core and its child process, which is in the namespace."""

    def __init__(self, kernel: Kernel, count: int) -> None:
        self.kernel = kernel
        self.table = Table("m1")
        self.count = count
        options = Options(pod_networks=(PODS,))
        self.proxier = NftProxier(self.table, kernel, ["ip"], options, Metrics(), SystemClock())

    async def full(self) -> float:
        services, slices = [_service(n) for n in range(self.count)], [_slice(n) for n in range(self.count)]
        await cleanup(self.kernel)
        started = time.perf_counter()
        self.proxier.set_node("", ["192.0.2.1"], [PODS])
        for n in range(self.count):
            self.table.set_service(("bench", f"service-{n}"), services[n])
            self.table.set_slice(("bench", f"service-{n}-a"), slices[n])
        await self._sync()
        return time.perf_counter() - started

    async def one(self, n: int, last: int) -> float:
        changed = _slice(n, last)
        started = time.perf_counter()
        self.table.set_slice(("bench", f"service-{n}-a"), changed)
        await self._sync()
        return time.perf_counter() - started

    async def _sync(self) -> None:
        await self.proxier.sync()
        assert self.proxier.next_retry() is None, "the kernel refused"

    async def live(self, seconds: float, min_sync_s: float) -> list[float]:
        """How long each of so many seconds' changes took to become a rule."""
        waiting: list[float] = []
        found: list[float] = []
        wake = asyncio.Event()

        async def change() -> None:
            started = time.perf_counter()
            for k in range(int(seconds * CHANGES_PER_S)):
                await asyncio.sleep(max(0.0, started + k / CHANGES_PER_S - time.perf_counter()))
                n = k * 37 % self.count
                self.table.set_slice(("bench", f"service-{n}-a"), _slice(n, ENDPOINTS + k % 50))
                waiting.append(time.perf_counter())
                wake.set()

        changing = asyncio.create_task(change())
        while not changing.done() or waiting:
            await wake.wait()
            wake.clear()
            began, taken = time.perf_counter(), waiting[:]
            waiting.clear()
            await self._sync()
            found += [time.perf_counter() - then for then in taken]
            await asyncio.sleep(max(0.0, began + min_sync_s - time.perf_counter()))
        return found


class Peer:
    """kube-proxy's layout through the program."""

    def __init__(self, space: Namespace, count: int) -> None:
        self.space = space
        self.count = count
        self._last: dict[int, int] = {}  # what became of a Service's last endpoint

    def _run(self, text: str) -> float:
        command = self.space.command(["nft", "-f", "-"])
        started = time.perf_counter()
        subprocess.run(command, input=text.encode(), check=True, pass_fds=[self.space.fd])
        return time.perf_counter() - started

    @staticmethod
    def _endpoint(n: int, place: int) -> list[str]:
        chain, pod = f"endpoint-{n}-{place}", _pod(n, place)
        return [
            f"add chain ip kube-proxy {chain}",
            f"add rule ip kube-proxy {chain} ip saddr {pod} jump mark-for-masquerade",
            f"add rule ip kube-proxy {chain} meta l4proto tcp dnat to {pod}:8080",
        ]

    @staticmethod
    def _service(n: int, places: list[int]) -> list[str]:
        from_others = f"ip saddr != {PODS} jump mark-for-masquerade"
        targets = ", ".join(f"{k} : goto endpoint-{n}-{place}" for k, place in enumerate(places))
        return [
            f"add chain ip kube-proxy service-{n}",
            f"flush chain ip kube-proxy service-{n}",
            f"add rule ip kube-proxy service-{n} ip daddr {_cluster_ip(n)} tcp dport 80 {from_others}",
            f"add rule ip kube-proxy service-{n} numgen random mod {len(places)} vmap {{ {targets} }}",
        ]

    def remove(self) -> None:
        self._run("delete table ip kube-proxy\n")
        self._last.clear()

    def full(self) -> float:
        lines = [
            "add table ip kube-proxy",
            "add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }",
            "add chain ip kube-proxy mark-for-masquerade",
            "add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000",
            "add chain ip kube-proxy services",
            "add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips",
            "add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100; }",
            "add rule ip kube-proxy nat-prerouting jump services",
            "add chain ip kube-proxy nat-output { type nat hook output priority -100; }",
            "add rule ip kube-proxy nat-output jump services",
        ]
        for n in range(self.count):
            places = list(range(ENDPOINTS))
            for place in places:
                lines += self._endpoint(n, place)
            lines += self._service(n, places)
            lines.append(f"add element ip kube-proxy service-ips {{ {_cluster_ip(n)} . tcp . 80 : goto service-{n} }}")
        return self._run("\n".join(lines) + "\n")

    def one(self, n: int, k: int) -> float:
        old, new = self._last.get(n, ENDPOINTS - 1), ENDPOINTS + k
        self._last[n] = new
        lines = self._endpoint(n, new) + self._service(n, [*range(ENDPOINTS - 1), new])
        lines += [f"flush chain ip kube-proxy endpoint-{n}-{old}", f"delete chain ip kube-proxy endpoint-{n}-{old}"]
        return self._run("\n".join(lines) + "\n")


async def _measure(space: Namespace, count: int, repeat: int, changes: int) -> dict[str, float]:
    kernel = Kernel()
    try:
        with space.entered():
            await cleanup(kernel)  # the child is in the namespace from now on
        peer, full_ours, full_peers, one_ours, one_peers = Peer(space, count), [], [], [], []
        for _ in range(repeat):
            full_peers.append(peer.full())
            for k in range(changes):
                await asyncio.sleep(PAUSE_S)
                one_peers.append(peer.one(k * 37 % count, k))
            peer.remove()
            ours = Ours(kernel, count)
            full_ours.append(await ours.full())
            for k in range(changes):
                await asyncio.sleep(PAUSE_S)
                one_ours.append(await ours.one(k * 37 % count, ENDPOINTS + k))
        live = sorted(await ours.live(5, Config(api_servers=["127.0.0.1:1"]).min_sync_period))
        await cleanup(kernel)
    finally:
        await kernel.stop()
    return {
        "full": min(full_ours),
        "full peer": min(full_peers),
        "one": statistics.median(one_ours),
        "one peer": statistics.median(one_peers),
        "live p50": live[len(live) // 2],
        "live p99": live[len(live) * 99 // 100],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", default="100,1000,10000", help="numbers of Services")
    parser.add_argument("--repeat", type=int, default=3, help="full turns of each")
    parser.add_argument("--changes", type=int, default=30, help="single changes of each")
    options = parser.parse_args()
    printed = Printed(title=f"Service rules: ms, {ENDPOINTS} endpoints per Service; × is how much faster ours is")
    for column in ("Services", "full", "kube-proxy's", "×", "one change", "kube-proxy's", "×", "live p50", "live p99"):
        printed.add_column(column, justify="right")
    ms: Callable[[float], str] = lambda seconds: f"{seconds * 1000:,.1f}"  # noqa: E731 - a format, named
    with Namespace() as space:
        for count in map(int, options.services.split(",")):
            found = asyncio.run(_measure(space, count, options.repeat, options.changes))
            printed.add_row(
                f"{count:,}",
                ms(found["full"]),
                ms(found["full peer"]),
                f"{found['full peer'] / found['full']:.1f}",
                ms(found["one"]),
                ms(found["one peer"]),
                f"{found['one peer'] / found['one']:.1f}",
                ms(found["live p50"]),
                ms(found["live p99"]),
            )
    console = Console()
    # Numbers are whole also where the output is a file, or the terminal narrow.
    Console(width=max(console.width, WIDTH_MIN)).print(printed)


if __name__ == "__main__":
    main()
