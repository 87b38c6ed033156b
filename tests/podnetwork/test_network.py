"""Pods of several machines reach each other and the world: real kernels' routes, real CNI plug-ins."""

import asyncio

import pytest

from raykube.podnetwork.core.conflist import FILE_NAME, NETWORK_NAME
from tests.kit.require import require_program
from tests.kit.waiting import until
from tests.podnetwork.world import CIDRS, HOSTS, World, node

pytestmark = pytest.mark.integration

SLOW_S = 40


async def ready(world: World, name: str) -> None:
    path = world.home(name) / "cni" / FILE_NAME
    await until(path.exists, SLOW_S, f"the CNI file of {name}")


async def answers(world: World, source: str, target: str, port: int, expected: str) -> None:
    """Waits until the server sees `expected` as its client."""
    found = ""
    for _ in range(40):
        found = await asyncio.to_thread(world.ask, source, world.addresses[target], port)
        if found == expected:
            return
    raise AssertionError(f"{source} → {target}: {found!r} instead of {expected!r}")


async def test_pods_reach_each_other_on_one_segment_and_across_segments(world: World) -> None:
    world.twin.put(*(node(name, HOSTS[name], CIDRS[name]) for name in HOSTS))
    for name in HOSTS:
        world.serve(name)
    for name in HOSTS:
        await ready(world, name)
        world.add_pod(name, f"p{name}")
        world.listen(f"p{name}", 8080)
    world.add_pod("m1", "q")
    world.listen("out", 8080)
    for source, target in (("pm1", "pm2"), ("pm2", "pm1"), ("q", "pm1"), ("pm1", "pm3"), ("pm3", "pm2")):
        await answers(world, source, target, 8080, world.addresses[source])  # nobody translates between pods
    await answers(world, "m1", "pm2", 8080, HOSTS["m1"])
    await answers(world, "pm1", "out", 8080, HOSTS["m1"])  # the world knows machines only
    await answers(world, "pm3", "out", 8080, HOSTS["m3"])
    routes = world.kernel("m1", "ip", "route")
    assert f"10.244.2.0/24 via {HOSTS['m2']} dev eth0" in routes
    assert "10.244.3.0/24 via 10.244.3.0 dev raykube.vx proto 82 onlink" in routes


async def test_routes_follow_the_nodes_and_outlive_the_process(world: World) -> None:
    world.twin.put(*(node(name, HOSTS[name], CIDRS[name]) for name in HOSTS))
    world.serve("m1")
    await ready(world, "m1")

    def routes() -> str:
        return world.kernel("m1", "ip", "route")

    await until(lambda: "10.244.2.0/24" in routes() and "raykube.vx" in routes(), SLOW_S)
    world.kernel("m1", "ip", "route", "del", "10.244.2.0/24")  # somebody's mistake
    await until(lambda: "10.244.2.0/24 via 192.0.2.12" in routes(), SLOW_S, "the removed route is back")
    world.kernel("m1", "ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.1")
    world.kernel("m1", "nft", "add table ip theirs; add chain ip theirs c; add rule ip theirs c counter")

    world.stop("m1", kill=True)
    assert "10.244.2.0/24" in routes() and "10.244.3.0/24" in routes()
    world.twin.delete(node("m3", HOSTS["m3"], CIDRS["m3"]))
    world.serve("m1")
    await until(lambda: "10.244.3.0/24" not in routes(), SLOW_S, "what became stale meanwhile is gone")
    await until(lambda: "raykube.vx" not in world.kernel("m1", "ip", "link"), SLOW_S, "nobody needs the tunnel")
    assert "203.0.113.0/24 via 192.0.2.1" in routes()
    assert "chain c" in world.kernel("m1", "nft", "list", "table", "ip", "theirs")

    world.twin.put(node("m2", "192.0.2.99", CIDRS["m2"]))
    await until(lambda: "10.244.2.0/24 via 192.0.2.99" in routes(), SLOW_S, "a machine moved")

    address, taken = world.add_pod("m1", "p"), world.home("m1") / "addresses" / NETWORK_NAME
    world.stop("m1")
    world.serve("m1", cleanup="true")
    await until(lambda: "10.244.2.0/24" not in routes(), SLOW_S, "a machine that leaves keeps nothing")
    await until(lambda: not (world.home("m1") / "cni" / FILE_NAME).exists(), SLOW_S)
    assert world.kernel("m1", "nft", "list", "tables").split() == ["table", "ip", "theirs"]
    assert (taken / address).exists(), "a pod is still there, which has it"
    world.remove_pod("p")
    await until(lambda: "veth" not in world.kernel("m1", "ip", "link"), SLOW_S)
    world.stop("m1")
    world.serve("m1", cleanup="true")
    await until(lambda: not taken.exists(), SLOW_S, "no address is remembered for pods that are gone")
    assert "raykube0" not in world.kernel("m1", "ip", "link")


async def test_pods_pass_a_firewall_that_drops_what_is_forwarded(world: World) -> None:
    """As Docker's and ufw's do, which may start before the pod network or after it."""
    require_program("iptables")
    world.twin.put(*(node(name, HOSTS[name], CIDRS[name]) for name in ("m1", "m2")))
    world.kernel("m1", "iptables", "-P", "FORWARD", "DROP")
    world.kernel("m1", "iptables", "-A", "FORWARD", "-p", "tcp", "--dport", "9090", "-j", "REJECT")
    for name in ("m1", "m2"):
        world.serve(name, sync_period="200ms")
    for name in ("m1", "m2"):
        await ready(world, name)
        world.add_pod(name, f"p{name}")
        world.listen(f"p{name}", 8080)
        world.listen(f"p{name}", 9090)
    world.add_pod("m1", "q")
    for source, target in (("q", "pm1"), ("pm1", "pm2"), ("pm2", "pm1")):
        await answers(world, source, target, 8080, world.addresses[source])
    assert not await asyncio.to_thread(world.ask, "pm1", world.addresses["pm2"], 9090), "what somebody refuses"
    world.kernel("m1", "iptables", "-F", "FORWARD")
    await answers(world, "pm1", "pm2", 9090, world.addresses["pm1"])
    # Packets of both ways pass with the first of the two.
    await until(lambda: len(world.kernel("m1", "iptables", "-S", "FORWARD").splitlines()) == 3, SLOW_S, "two rules")
    assert world.kernel("m2", "iptables", "-S", "FORWARD").splitlines() == ["-P FORWARD ACCEPT"]
    world.stop("m1")
    world.serve("m1", cleanup="true")
    await until(lambda: world.kernel("m1", "iptables", "-S", "FORWARD").split() == ["-P", "FORWARD", "DROP"], SLOW_S)


async def test_a_route_that_the_kernel_refuses_keeps_no_other_away(world: World) -> None:
    """A Node says which address it has: here the broadcast address of the segment, whose pods come first."""
    odd = node("m0", "192.0.2.255", "10.244.0.0/24")
    other = node("a", "fd99::1", "10.244.9.0/24")  # no end of a tunnel over IPv4
    world.twin.put(odd, other, *(node(name, HOSTS[name], CIDRS[name]) for name in HOSTS))
    world.kernel("m1", "ip", "route", "add", CIDRS["m2"], "via", "192.0.2.1")  # somebody's own
    world.serve("m1")
    await ready(world, "m1")

    def routes() -> str:
        return world.kernel("m1", "ip", "route")

    await until(lambda: "10.244.3.0/24 via 10.244.3.0 dev raykube.vx" in routes(), SLOW_S, "the tunnel's route")
    await until(lambda: "10.244.0.0/24 via 192.0.2.255" in world.log("m1"), SLOW_S, "the log names the refused route")
    await until(lambda: HOSTS["m3"] in world.kernel("m1", "bridge", "fdb", "show", "dev", "raykube.vx"), SLOW_S)
    world.kernel("m1", "ip", "route", "del", CIDRS["m2"])
    world.twin.delete(odd, other)
    await until(lambda: f"10.244.2.0/24 via {HOSTS['m2']}" in routes(), SLOW_S, "what is possible now is done")


async def test_vxlan_for_all_where_the_operator_says_so(world: World) -> None:
    world.twin.put(*(node(name, HOSTS[name], CIDRS[name]) for name in ("m1", "m2")))
    for name in ("m1", "m2"):
        world.serve(name, backend="vxlan", cni_plugin="ptp")
    for name in ("m1", "m2"):
        await ready(world, name)
        world.add_pod(name, f"p{name}")
        world.listen(f"p{name}", 8080)
    await answers(world, "pm1", "pm2", 8080, world.addresses["pm1"])
    assert "mtu 1450" in world.kernel("pm1", "ip", "link", "show", "eth0")
    assert "10.244.2.0/24 via 10.244.2.0 dev raykube.vx" in world.kernel("m1", "ip", "route")
    assert "bridge" not in world.kernel("m1", "ip", "-d", "link", "show", "type", "bridge")
