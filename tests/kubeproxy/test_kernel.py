"""Random Services in a real kernel, against a dumb model of where each packet may go.

    pod 10.1.1.9, outside 192.168.77.9 ──► m1, with the rules ──► pods that need not exist

A datagram is sent from each place to each address; the node's table of tracked flows then says where it was sent.
"""

import asyncio
import json
import random
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raykube.kubeproxy.config import Config
from raykube.kubeproxy.core.metrics import Metrics
from raykube.kubeproxy.core.nftables.layout import TABLE, Options, table_of
from raykube.kubeproxy.core.table import Table
from raykube.kubeproxy.mode import choose
from raykube.kubeproxy.nft_proxier import NftProxier, cleanup
from raykube.nftables.core.listing import installed
from raykube.nftables.core.objects import CHAIN
from raykube.nftables.core.ruleset import difference
from raykube.nftables.kernel import Child, ChildEnded, Kernel, KernelError
from raykube.rpc.clock import SystemClock
from tests.kit.netns import Namespace, join, require_network_namespaces
from tests.kit.require import require_program
from tests.kit.tcp import eventually
from tests.kubeproxy.objects import endpoint, endpoint_slice, service

pytestmark = pytest.mark.integration

NODE_IP, POD, OUTSIDE = "192.168.77.1", "10.1.1.9", "192.168.77.9"
SOURCES = {"pod": POD, "outside": OUTSIDE, "node": NODE_IP}


class Node:
    """A namespace with the rules, another that sends, and the proxier, which runs in this process."""

    def __init__(self) -> None:
        require_network_namespaces()
        require_program("nft")
        require_program("conntrack")
        self.space, self.clients, self._nowhere = Namespace(), Namespace(), Namespace()
        join(self.space, "clients", self.clients, "eth0")
        join(self.space, "pods", self._nowhere, "eth0")
        self.space.write("/proc/sys/net/ipv4/ip_forward", "1")
        self.space.write("/proc/sys/net/ipv4/icmp_ratelimit", "0")  # each refusal is to be heard
        self.space.ip(
            f"addr add {NODE_IP}/24 dev clients",
            f"route add {POD}/32 dev clients",
            "link set pods arp off",
            "route add 10.1.0.0/16 dev pods",
            "route add default dev pods",
        )
        self.clients.ip(
            f"addr add {OUTSIDE}/24 dev eth0", f"addr add {POD}/32 dev eth0", f"route add default via {NODE_IP}"
        )
        self.table = Table("m1")
        self.metrics = Metrics()
        self.kernel = Kernel()
        self.proxier = self.restarted()

    def restarted(self, flows: Child | None = None) -> NftProxier:
        """Another proxier on the same table of rules, which knows nothing of what is installed."""
        self.proxier = NftProxier(
            self.table,
            self.kernel,
            ["ip", "ip6"],
            Options(pod_networks=("10.1.0.0/16",)),
            self.metrics,
            SystemClock(),
            flows,
        )
        self.proxier.set_node("", [NODE_IP], ["10.1.0.0/16"])
        return self.proxier

    async def there(self) -> None:
        """The child process is in the node's namespace from now on."""
        with self.space.entered():
            await self.kernel.has_table(table_of("ip"))

    def nft(self, *arguments: str) -> str:
        return self.space.run("nft", *arguments)

    async def apply(self, *objects: dict[str, Any]) -> None:
        for obj in objects:
            key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
            (self.table.set_service if obj["kind"] == "Service" else self.table.set_slice)(key, obj)
        await self.proxier.sync()

    async def unlike(self) -> dict[Any, Any]:
        """What the kernel holds otherwise than it ought to, chains' rules aside."""
        found: dict[Any, Any] = {}
        for family in ("ip", "ip6"):
            listing = await self.kernel.list_table(table_of(family))
            assert listing is not None
            base = self.proxier.desired.base(family)
            delta = difference(installed(listing, base), self.proxier.desired.items(family))
            found |= {item: each for item, each in delta.items() if item[0] != CHAIN or None in each}
        return found

    def where(self, source: str, address: str, port: int, count: int) -> set[str]:
        """Where datagrams go; "refused", "dropped"."""
        self.space.run("conntrack", "-F", "conntrack")
        found: set[str] = set()
        sent: dict[int, socket.socket] = {}
        space = self.space if source == "node" else self.clients
        for _ in range(count):
            sender = space.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sender.bind((SOURCES[source], 0))
            sender.connect((address, port))
            sent[sender.getsockname()[1]] = sender
            try:
                sender.send(b"?")
            except OSError:
                found.add("refused")
                del sent[sender.getsockname()[1]]
        flows = self.space.run("conntrack", "-L", "-p", "udp", "--orig-dst", address) + "\n"
        for line in flows.splitlines():
            match = re.search(r"sport=(\d+) .*? src=(\S+) dst=\S+ sport=(\d+)", line)
            if match is not None and (sender := sent.pop(int(match[1]), None)) is not None:
                found.add(f"{match[2]}:{match[3]}" if match[2] != address else "nowhere")
                sender.close()
        for sender in sent.values():
            try:
                sender.send(b"?")  # an error of the first one is told now
                sender.recv(10)
            except ConnectionRefusedError:
                found.add("refused")
            except BlockingIOError:
                found.add("dropped")
            sender.close()
        return found

    async def close(self) -> None:
        await self.proxier.stop()
        for space in (self.space, self.clients, self._nowhere):
            space.close()


@asynccontextmanager
async def node() -> AsyncIterator[Node]:
    found = Node()
    try:
        await found.there()
        yield found
    finally:
        await found.close()


class World:
    """Random Services and pods, and what they mean, said as plainly as can be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.services: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, list[tuple[str, str, str]]] = {}  # name → (address, node, state)

    def change(self) -> list[dict[str, Any]]:
        """One Service or its pods become others."""
        draw, name = self.random, f"s{self.random.randrange(4)}"
        number = int(name[1:])
        if name not in self.services or draw.random() < 0.5:
            policies = {
                "externalTrafficPolicy": draw.choice(["Cluster", "Local"]),
                "internalTrafficPolicy": draw.choice(["Cluster", "Cluster", "Local"]),
            }
            if draw.random() < 0.3:
                policies["sessionAffinity"] = "ClientIP"
            if draw.random() < 0.5:
                ranges = [["192.168.77.9/32"], ["10.0.0.0/8", f"{NODE_IP}/32"]]
                policies["loadBalancerSourceRanges"] = draw.choice(ranges)
            found = service(
                name,
                f"10.96.0.{number + 1}",
                type="LoadBalancer",
                ports=[{"name": "u", "port": 53, "nodePort": 30000 + number, "protocol": "UDP"}],
                externalIPs=[f"192.0.2.{number + 1}"],
                **policies,
            )
            found["status"] = {"loadBalancer": {"ingress": [{"ip": f"198.51.100.{number + 1}"}]}}
            self.services[name] = found
            return [found]
        states = ["ready", "ready", "ready", "going", "unready"]
        some = range(draw.randrange(5))
        pods = {f"10.1.{draw.choice('12')}.{draw.randrange(20, 26)}": draw.choice(states) for _ in some}
        self.pods[name] = [(pod, f"m{pod.split('.')[2]}", state) for pod, state in pods.items()]
        conditions = {
            "ready": {"ready": True},
            "going": {"ready": False, "serving": True, "terminating": True},
            "unready": {"ready": False},
        }
        endpoints = [endpoint(pod, on, **conditions[state]) for pod, on, state in self.pods[name]]
        return [endpoint_slice(*endpoints, port={"u": 5353}, service=name, name=name, protocol="UDP")]

    def may_go(self, name: str, source: str, kind: str) -> set[str]:
        """Where a packet to an address of the Service may go."""
        spec = self.services[name]["spec"]

        def chosen(only_local: bool) -> set[str]:
            pods = [pod for pod in self.pods.get(name, []) if not only_local or pod[1] == "m1"]
            ready = [pod for pod in pods if pod[2] == "ready"] or [pod for pod in pods if pod[2] == "going"]
            return {f"{pod[0]}:5353" for pod in ready} or {"refused"}

        if kind == "cluster":
            return chosen(spec["internalTrafficPolicy"] == "Local")
        ranges = spec.get("loadBalancerSourceRanges")
        if kind == "balanced" and ranges:
            admitted = {"192.168.77.9/32": {"outside"}, "10.0.0.0/8": {"pod", "node"}}[ranges[0]]
            if source not in admitted:
                return {"refused"} if source == "node" else {"dropped"}  # the node's sender is told
        return chosen(spec["externalTrafficPolicy"] == "Local" and source == "outside")

    def targets(self, name: str) -> dict[str, tuple[str, int]]:
        number = int(name[1:])
        return {
            "cluster": (f"10.96.0.{number + 1}", 53),
            "external": (f"192.0.2.{number + 1}", 53),
            "balanced": (f"198.51.100.{number + 1}", 53),
            "node port": (NODE_IP, 30000 + number),
        }


@pytest.mark.parametrize("seed", range(3))
async def test_packets_go_where_the_model_says(seed: int) -> None:
    async with node() as here:
        world = World(seed)
        for step in range(25):
            for _ in range(world.random.choice([1, 1, 3])):
                for obj in world.change():
                    key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
                    (here.table.set_service if obj["kind"] == "Service" else here.table.set_slice)(key, obj)
            if step % 8 == 7:
                here.restarted()
                here.proxier.desired.apply(type(here.table.sync())(set=dict(here.table.rules)))
            await here.proxier.sync()
            assert here.metrics.sync_failures == 0
            assert await here.unlike() == {}
            name = world.random.choice(sorted(world.services))
            for kind, (address, port) in world.targets(name).items():
                for source in SOURCES:
                    expected = world.may_go(name, source, kind)
                    sticky = "sessionAffinity" in world.services[name]["spec"]
                    found = here.where(source, address, port, 1 if sticky else 6 * len(expected))
                    assert found <= expected and found, (step, name, kind, source, here.nft("list", "ruleset"))
                    if not sticky and len(expected) == 2:
                        # The kernel draws at random: one of two stays out of twelve draws once in 2,000 times.
                        for _ in range(4):
                            if found != expected:
                                found |= here.where(source, address, port, 12)
                        assert found == expected, (step, name, kind, source)


async def test_others_tables_are_not_touched() -> None:
    async with node() as here:
        foreign = (
            "add table ip filter\nadd set ip filter s { type ipv4_addr; elements = { 10.96.0.1 }; }\n"
            "add chain ip filter INPUT { type filter hook input priority 0; policy accept; }\n"
            "add rule ip filter INPUT ip saddr @s accept\n"
            "add table inet raykube\nadd chain inet raykube x\n"
            "add table ip kube-proxy\nadd chain ip kube-proxy services\n"
        )
        here.space.run("nft", "-f", "-", stdin=foreign)
        before = here.nft("list", "ruleset")
        await here.apply(service(ip="10.96.0.1"), endpoint_slice(endpoint("10.1.1.2", "m1")))
        await here.apply(endpoint_slice())
        own = here.nft("list", "table", "ip", TABLE) + here.nft("list", "table", "ip6", TABLE)
        assert "10.96.0.1" in own
        assert here.nft("list", "ruleset").replace(own, "").strip() == before.strip()
        assert await cleanup(here.kernel) == ["ip", "ip6"]
        assert here.nft("list", "ruleset") == before
        assert await cleanup(here.kernel) == []


async def test_a_removed_table_is_installed_again() -> None:
    async with node() as here:
        await here.apply(service(ip="10.96.0.1"), endpoint_slice(endpoint("10.1.1.2", "m1")))
        assert await here.proxier.intact()
        here.nft("flush", "ruleset")
        assert not await here.proxier.intact()
        await here.proxier.sync()
        assert await here.unlike() == {}
        # Nobody noticed: the next change does not fit, and then everything is compared.
        here.nft("flush", "ruleset")
        await here.apply(endpoint_slice(endpoint("10.1.1.3", "m1")))
        assert here.proxier.next_retry() is None
        assert await here.unlike() == {}
        here.nft("delete", "element", "ip", TABLE, "services", "{ 10.96.0.1 . 6 . 80 }")
        await here.apply(endpoint_slice())
        assert await here.unlike() == {}


class Stuck(Child):
    """A child that forgets no flow before it may."""

    def __init__(self) -> None:
        super().__init__("")
        self.asked: list[dict[str, Any]] = []
        self.may = asyncio.Event()

    async def ask(self, request: dict[str, Any]) -> str:
        self.asked += request["flows"]
        await self.may.wait()
        return "0"


async def test_flows_that_take_long_to_forget_hold_up_no_rules() -> None:
    async with node() as here:
        flows = Stuck()
        here.restarted(flows)
        udp = [{"port": 53, "protocol": "UDP"}]
        async with asyncio.timeout(30):
            await here.apply(service(ip="10.96.0.9", ports=udp), endpoint_slice(endpoint("10.1.0.1"), protocol="UDP"))
            await eventually(lambda: bool(flows.asked))
            await here.apply(endpoint_slice(endpoint("10.1.0.2"), protocol="UDP"))
            await here.apply(endpoint_slice(endpoint("10.1.0.3"), protocol="UDP"))
        assert "10.1.0.3 . 8080" in here.nft("list", "map", "ip", TABLE, "endpoints-0")
        flows.may.set()
        await eventually(lambda: len(flows.asked) == 2)
        assert flows.asked[-1]["keep"] == [("10.1.0.3", 8080)], "the newest word on an address counts"


class Dying(Stuck):
    """A child that ends before it answers for the first time."""

    async def ask(self, request: dict[str, Any]) -> str:
        self.asked += request["flows"]
        if len(self.asked) == 1:
            raise KernelError("it ended")
        return "0"


async def test_flows_that_could_not_be_forgotten_are_with_the_next_change() -> None:
    async with node() as here:
        flows = Dying()
        here.restarted(flows)
        udp = [{"port": 53, "protocol": "UDP"}]
        await here.apply(service(ip="10.96.0.9", ports=udp), endpoint_slice(endpoint("10.1.0.1"), protocol="UDP"))
        await eventually(lambda: len(flows.asked) == 1)
        await here.apply(service("other", ip="10.96.0.8"))  # of TCP: no flows of its own
        await eventually(lambda: len(flows.asked) == 2)
        assert flows.asked[0] == flows.asked[1]


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_child_that_ends_at_the_start_decides_no_mode(lost: int) -> None:
    """The first or the second question, which is for IPv6, is not answered."""

    class Losing(Kernel):
        asked = 0

        async def run(self, text: str, *, check: bool = False) -> None:
            self.asked += 1
            if self.asked == lost:
                raise ChildEnded("out of memory")

    require_network_namespaces()  # the mode is for root
    kernel = Losing()
    config = Config(api_servers=["127.0.0.1:9"], proxy_mode="nftables")  # which takes no rules away
    assert await choose(config, kernel) == ["ip", "ip6"]
    await kernel.stop()


async def test_flows_of_a_service_that_changes_wait_for_no_others() -> None:
    """After a restart there are as many to look at as there are addresses, and a client waits for the one that went."""
    async with node() as here:
        flows = Stuck()
        here.restarted(flows)
        udp = [{"port": 53, "protocol": "UDP"}]
        for each in range(2, 250):
            name = f"web{each}"
            here.table.set_service(("n", name), service(name, ip=f"10.96.0.{each}", ports=udp))
            found = endpoint_slice(endpoint("10.1.0.1"), protocol="UDP", name=name, service=name)
            here.table.set_slice(("n", name), found)
        await here.apply()
        await eventually(lambda: bool(flows.asked))
        waiting = ({f"10.96.0.{each}" for each in range(2, 250)} - {flow["address"] for flow in flows.asked}).pop()
        asked, name = len(flows.asked), f"web{waiting.rpartition('.')[2]}"
        await here.apply(endpoint_slice(endpoint("10.1.0.2"), protocol="UDP", name=name, service=name))
        flows.may.set()
        await eventually(lambda: len(flows.asked) == 248)
        assert flows.asked[asked]["address"] == waiting
        assert flows.asked[asked]["keep"] == [("10.1.0.2", 8080)]


@pytest.mark.parametrize("goes", [True, False])
async def test_flows_of_clients_inside_are_looked_at_after_a_restart(goes: bool) -> None:
    """With externalTrafficPolicy Local and no endpoint here, only pods of this node were served: no map but theirs
    tells of the Service. One that became another one keeps what it still has."""
    spec = {"type": "NodePort", "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]}
    local = service(ip="10.96.0.9", externalTrafficPolicy="Local", **spec)
    there = endpoint_slice(endpoint("10.1.0.9", "m2"), protocol="UDP")
    async with node() as here:
        first, flows = Stuck(), Stuck()
        first.may.set()
        flows.may.set()
        here.restarted(first)
        await here.apply(local, there)
        assert "30053" in here.nft("list", "map", "ip", TABLE, "node-inside")
        here.table = Table("m1")
        here.restarted(flows)
        await here.apply(*(() if goes else (service(ip="10.96.0.9", **spec), there)))
        await eventually(lambda: bool(flows.asked))
        keep = {(flow["address"], flow["port"]): flow["keep"] for flow in flows.asked}
        assert keep.get((NODE_IP, 30053)) == ([] if goes else [("10.1.0.9", 8080)])


async def test_what_nobody_can_read_is_replaced() -> None:
    async with node() as here:
        here.nft("add", "table", "ip", TABLE)
        here.nft("add", "chain", "ip", TABLE, "nat-output", "{ type filter hook input priority 7; }")
        here.nft("add", "map", "ip", TABLE, "left", "{ type ipv4_addr : ipv4_addr; }")
        await here.apply(service(ip="10.96.0.1"), endpoint_slice(endpoint("10.1.1.2", "m1")))
        assert here.proxier.next_retry() is None
        assert await here.unlike() == {}
        assert "left" not in here.nft("list", "ruleset")


async def test_a_restart_changes_no_element_and_keeps_who_belongs_where() -> None:
    async with node() as here:
        pods = [endpoint(f"10.1.1.{n}", "m1") for n in (20, 21, 22)]
        sticky = service(
            ip="10.96.0.1", sessionAffinity="ClientIP", ports=[{"name": "u", "port": 53, "protocol": "UDP"}]
        )
        await here.apply(sticky, endpoint_slice(*pods, port={"u": 5353}, protocol="UDP"))
        (chosen,) = here.where("outside", "10.96.0.1", 53, 4)
        monitor = json.loads(here.nft("-j", "list", "table", "ip", TABLE))
        here.restarted()
        here.proxier.desired.apply(type(here.table.sync())(set=dict(here.table.rules)))
        await here.proxier.sync()
        after = json.loads(here.nft("-j", "list", "table", "ip", TABLE))
        handles = [
            {entry["map"]["name"]: entry["map"]["handle"] for entry in listing["nftables"] if "map" in entry}
            for listing in (monitor, after)
        ]
        assert handles[0] == handles[1]
        assert here.where("outside", "10.96.0.1", 53, 8) == {chosen}
