"""NetworkPolicies on real kernels: who may connect to whom is what the API's documentation says."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

import pytest

from raykube.podnetwork.core.conflist import FILE_NAME
from tests.kit.waiting import until
from tests.podnetwork.model import may_connect
from tests.podnetwork.world import CIDRS, HOSTS, World, namespace, node, pod, policy

pytestmark = pytest.mark.integration

PORTS = (8080, 9090)
SLOW_S = 40
PLACES = {"web": ("m1", "default"), "api": ("m1", "default"), "db": ("m2", "default"), "spy": ("m2", "other")}
NAMED = {"web": {"http": 8080}, "api": {"http": 9090}, "db": {"sql": 8080}, "spy": {}}


class Cluster:
    """Four pods on two machines, two servers in each."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pods: dict[str, dict[str, Any]] = {}
        self.namespaces = {"default": namespace("default", team="a"), "other": namespace("other", team="b")}
        self.policies: list[dict[str, Any]] = []

    async def start(self) -> None:
        world = self.world
        world.twin.put(*self.namespaces.values(), *(node(name, HOSTS[name], CIDRS[name]) for name in ("m1", "m2")))
        for name in ("m1", "m2"):
            world.serve(name)
        for name in ("m1", "m2"):
            await until((world.home(name) / "cni" / FILE_NAME).exists, SLOW_S)
        for name, (host, home) in PLACES.items():
            address = world.add_pod(host, name)
            made = pod(
                name, host, address, namespace=home, ports=NAMED[name], app=name, tier="t1" if name == "web" else "t2"
            )
            self.pods[name] = made
            world.twin.put(made)
            for port in PORTS:
                world.listen(name, port)

    def apply(self, *policies: dict[str, Any]) -> None:
        self.world.twin.delete(*self.policies)
        self.policies = list(policies)
        self.world.twin.put(*policies)

    async def seen(self) -> set[tuple[str, str, int]]:
        """All (source, target, port) that get an answer."""
        triples = [(source, target, port) for source in PLACES for target in PLACES for port in PORTS]
        answers = await asyncio.gather(
            *(
                asyncio.to_thread(self.world.ask, source, self.world.addresses[target], port)
                for source, target, port in triples
            )
        )
        return {triple for triple, answer in zip(triples, answers, strict=True) if answer}

    def expected(self) -> set[tuple[str, str, int]]:
        return {
            (source, target, port)
            for source in PLACES
            for target in PLACES
            for port in PORTS
            if may_connect(self.pods[source], self.pods[target], port, self.policies, self.namespaces)
        }

    async def agrees(self, what: str) -> None:
        expected = self.expected()
        deadline = time.monotonic() + SLOW_S
        while (seen := await self.seen()) != expected and time.monotonic() < deadline:
            pass
        if seen == expected:
            return
        lines = [f"{'open' if one in seen else 'shut'}: {one}" for one in sorted(seen ^ expected)]
        raise AssertionError(f"{what}: {self.policies}\n" + "\n".join(lines))


@pytest.fixture
async def cluster(world: World) -> Cluster:
    made = Cluster(world)
    await made.start()
    await made.agrees("no policy")
    return made


async def test_what_is_documented(cluster: Cluster) -> None:
    addresses = cluster.world.addresses
    deny = policy("deny")
    cases: dict[str, list[dict[str, Any]]] = {
        "nobody gets in": [deny],
        "from pods of the namespace": [policy(ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "api"}}}]}])],
        "from another namespace": [policy(ingress=[{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}])],
        "from pods of namespaces": [
            policy(ingress=[{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "spy"}}}]}])
        ],
        "one port from all": [policy(ingress=[{"ports": [{"port": 8080}]}])],
        "a range of ports": [policy(ingress=[{"ports": [{"port": 9000, "endPort": 9100}]}])],
        "a named port, which differs from pod to pod": [policy(ingress=[{"ports": [{"port": "http"}]}])],
        "another protocol": [policy(ingress=[{"ports": [{"protocol": "UDP"}]}])],
        "only out to one pod": [
            policy(policyTypes=["Egress"], egress=[{"to": [{"podSelector": {"matchLabels": {"app": "db"}}}]}])
        ],
        "out to a named port": [policy(policyTypes=["Egress"], egress=[{"ports": [{"port": "sql"}]}])],
        "out to a block but for one address": [
            policy(egress=[{"to": [{"ipBlock": {"cidr": "10.244.0.0/16", "except": [f"{addresses['db']}/32"]}}]}])
        ],
        "in from anywhere by address": [policy(ingress=[{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}])],
        "policies add up": [
            deny,
            policy("one", podSelector={"matchLabels": {"tier": "t1"}}, ingress=[{}]),
            policy("two", podSelector={"matchLabels": {"app": "db"}}, ingress=[{"ports": [{"port": 9090}]}]),
        ],
        "both directions must agree": [
            deny,
            policy("in", podSelector={"matchLabels": {"app": "db"}}, ingress=[{}]),
            policy("out", podSelector={"matchLabels": {"app": "web"}}, policyTypes=["Egress"], egress=[]),
        ],
    }
    for what, policies in cases.items():
        cluster.apply(*policies)
        await cluster.agrees(what)


async def test_labels_namespaces_and_pods_that_change(cluster: Cluster) -> None:
    friends = {"matchLabels": {"friend": "yes"}}
    cluster.apply(policy(ingress=[{"from": [{"podSelector": friends}, {"namespaceSelector": friends}]}]))
    await cluster.agrees("no friends yet")
    cluster.pods["web"]["metadata"]["labels"]["friend"] = "yes"
    cluster.world.twin.put(cluster.pods["web"])
    await cluster.agrees("a pod became a friend")
    cluster.namespaces["other"]["metadata"]["labels"]["friend"] = "yes"
    cluster.world.twin.put(cluster.namespaces["other"])
    await cluster.agrees("a namespace became one")
    cluster.pods["web"]["metadata"]["labels"]["friend"] = "no"
    cluster.world.twin.put(cluster.pods["web"])
    await cluster.agrees("the pod is none any more")
    cluster.apply()
    await cluster.agrees("the policy is gone")


async def test_rules_outlive_the_process_and_stale_ones_go(cluster: Cluster) -> None:
    world = cluster.world
    cluster.apply(policy("deny"))
    await cluster.agrees("before")
    foreign = "add table inet theirs; add chain inet theirs c; add rule inet theirs c counter"
    world.kernel("m1", "nft", foreign)
    world.stop("m1", kill=True)
    await cluster.agrees("while nothing runs")
    cluster.apply(policy("open", ingress=[{}]))
    world.serve("m1")
    await cluster.agrees("after the restart")
    assert "counter" in world.kernel("m1", "nft", "list", "table", "inet", "theirs")


async def test_no_pod_starts_before_the_policies_are_there(world: World) -> None:
    """The CNI file says to the runtime that pods may come."""
    world.twin.held["networkpolicies"] = asyncio.Event()
    world.twin.put(namespace("default"), *(node(name, HOSTS[name], CIDRS[name]) for name in ("m1", "m2")), policy())
    file = world.home("m1") / "cni" / FILE_NAME
    file.parent.mkdir(parents=True)
    file.write_text("{}")  # of before the machine was started anew
    world.serve("m1")

    def has_route(cidr: str) -> bool:
        return cidr in world.kernel("m1", "ip", "route")

    await until(lambda: has_route(CIDRS["m2"]), SLOW_S)
    world.twin.put(node("m3", HOSTS["m3"], CIDRS["m3"]))
    await until(lambda: has_route(CIDRS["m3"]), SLOW_S, "all that followed from the first Nodes is done")
    assert not file.exists()
    world.twin.held["networkpolicies"].set()
    await until(file.exists, SLOW_S)
    assert "drop" not in world.kernel("m1", "nft", "list", "table", "inet", "raykube-pods"), "no pod is isolated yet"


async def test_what_is_switched_off_leaves_no_rules(world: World) -> None:
    """Policies that nobody follows any more would shut out pods that are not even the ones they were for."""
    world.twin.put(namespace("default"), node("m1", HOSTS["m1"], CIDRS["m1"]), policy("deny"))
    world.serve("m1")
    await until((world.home("m1") / "cni" / FILE_NAME).exists, SLOW_S)
    assert world.kernel("m1", "nft", "list", "tables").count("inet raykube-") == 2
    world.stop("m1")
    world.serve("m1", network_policy="false", masquerade="false")
    await until(lambda: "raykube-" not in world.kernel("m1", "nft", "list", "tables"), SLOW_S)


async def test_rules_that_somebody_flushes_come_back(world: World) -> None:
    """No object changes: nothing but a look at the kernel tells that all pods are open to all."""
    world.twin.put(namespace("default"), node("m1", HOSTS["m1"], CIDRS["m1"]), policy("deny"))
    world.serve("m1", sync_period="200ms")
    await until((world.home("m1") / "cni" / FILE_NAME).exists, SLOW_S)
    for name in ("web", "api"):
        world.twin.put(pod(name, "m1", world.add_pod("m1", name)))
    world.listen("api", 8080)

    def tables() -> str:
        return world.kernel("m1", "nft", "list", "tables")

    def installed() -> bool:
        return "raykube-masquerade" in tables() and "raykube-pods" in tables()

    async def shut() -> None:
        deadline = time.monotonic() + SLOW_S
        while await asyncio.to_thread(world.ask, "web", world.addresses["api"], 8080):
            assert time.monotonic() < deadline

    await until(installed, SLOW_S)
    await shut()
    world.kernel("m1", "nft", "flush", "ruleset")
    await until(installed, SLOW_S, "both tables are back")
    await shut()


async def test_machine_reaches_its_own_pods_and_they_reach_it(cluster: Cluster) -> None:
    cluster.apply(policy("deny", policyTypes=["Ingress", "Egress"]))
    await cluster.agrees("all is shut")
    world = cluster.world
    world.listen("m1", 7070)
    assert await asyncio.to_thread(world.ask, "m1", world.addresses["web"], 8080)
    assert await asyncio.to_thread(world.ask, "web", HOSTS["m1"], 7070)


async def test_pods_of_one_bridge_find_each_other_over_ipv6(world: World) -> None:
    """They ask for each other's MAC, which the bridge shows to the rules as packets like any other."""
    world.twin.put(namespace("default"), node("m1", HOSTS["m1"], "fd44:1::/64"))
    world.serve("m1", cluster_cidr="fd44::/16")
    await until((world.home("m1") / "cni" / FILE_NAME).exists, SLOW_S)
    for name in ("web", "api", "db"):
        world.twin.put(pod(name, "m1", world.add_pod("m1", name), app=name))
        world.listen(name, 8080)
    web = [{"podSelector": {"matchLabels": {"app": "web"}}}]
    api = [{"podSelector": {"matchLabels": {"app": "api"}}}]
    both = ["Ingress", "Egress"]
    world.twin.put(
        policy("web", podSelector={"matchLabels": {"app": "web"}}, policyTypes=both, egress=[{"to": api}]),
        policy("api", podSelector={"matchLabels": {"app": "api"}}, policyTypes=both, ingress=[{"from": web}]),
    )

    async def open_from_web() -> dict[str, bool]:
        for name in ("web", "api", "db"):
            world.kernel(name, "ip", "-6", "neigh", "flush", "dev", "eth0")
        return {
            name: bool(await asyncio.to_thread(world.ask, "web", world.addresses[name], 8080)) for name in ("api", "db")
        }

    deadline = time.monotonic() + SLOW_S
    while (found := await open_from_web()) != {"api": True, "db": False} and time.monotonic() < deadline:
        pass
    assert found == {"api": True, "db": False}


def _random_policy(dice: random.Random, name: str, addresses: dict[str, str]) -> dict[str, Any]:
    def selector() -> dict[str, Any]:
        return dice.choice([{}, {"matchLabels": {"app": dice.choice(list(PLACES))}}, {"matchLabels": {"tier": "t2"}}])

    def peer() -> dict[str, Any]:
        kinds: list[Callable[[], dict[str, Any]]] = [
            lambda: {"podSelector": selector()},
            lambda: {"namespaceSelector": dice.choice([{}, {"matchLabels": {"team": "b"}}])},
            lambda: {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": selector()},
            lambda: {"ipBlock": {"cidr": dice.choice(["10.244.1.0/24", "10.244.0.0/16", f"{addresses['spy']}/32"])}},
            lambda: {"ipBlock": {"cidr": "10.244.0.0/16", "except": [f"{addresses[dice.choice(list(PLACES))]}/32"]}},
        ]
        return dice.choice(kinds)()

    def rule(key: str) -> dict[str, Any]:
        ports = [
            {"port": 8080},
            {"port": "http"},
            {"port": "sql"},
            {"port": 8000, "endPort": 9090},
            {"protocol": "TCP"},
        ]
        found: dict[str, Any] = {}
        if dice.random() < 0.7:
            found[key] = [peer() for _ in range(dice.randint(1, 2))]
        if dice.random() < 0.6:
            found["ports"] = dice.sample(ports, dice.randint(1, 2))
        return found

    types = dice.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]])
    spec: dict[str, Any] = {"podSelector": selector(), "policyTypes": types}
    if "Ingress" in types:
        spec["ingress"] = [rule("from") for _ in range(dice.randint(0, 2))]
    if "Egress" in types:
        spec["egress"] = [rule("to") for _ in range(dice.randint(0, 2))]
    return policy(name, namespace=dice.choice(["default", "default", "other"]), **spec)


async def test_random_policies_as_the_twin_says(cluster: Cluster) -> None:
    dice = random.Random(20)
    for number in range(12):
        policies = [_random_policy(dice, f"p{index}", cluster.world.addresses) for index in range(dice.randint(1, 4))]
        cluster.apply(*policies)
        await cluster.agrees(f"round {number}")
