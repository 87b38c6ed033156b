"""Packets through both proxies: from a pod, from a node, from outside, to each kind of Service."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.kubeproxy.network import ANSWERING, PODS, TCP_PORT, UDP_PORT, Network, cluster
from tests.kubeproxy.objects import endpoint, endpoint_slice, service

pytestmark = [pytest.mark.integration, pytest.mark.parametrize("mode", ["nftables", "userspace"])]

TCP = {"name": "web", "port": 80, "protocol": "TCP"}
UDP = {"name": "dns", "port": 53, "protocol": "UDP"}


def backends(*pods: str, name: str = "web", family: str = "IPv4", **conditions: bool) -> list[dict[str, Any]]:
    """The slices of a Service with these pods, for TCP and UDP."""
    endpoints = [endpoint(Network.address(pod, family), ANSWERING[pod], **conditions) for pod in pods]
    ports = (("TCP", {"web": TCP_PORT}), ("UDP", {"dns": UDP_PORT}))
    return [
        endpoint_slice(
            *endpoints,
            port=port,
            service=name,
            name=f"{name}-{family}-{protocol}".lower(),
            protocol=protocol,
            family=family,
        )
        for protocol, port in ports
    ]


async def test_cluster_ip(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        web = service(ip="10.96.0.10", clusterIPs=["10.96.0.10", "fd96::10"], ports=[TCP, UDP])
        here.api.put(web, *backends("b", "c"), *backends("b", "c", family="IPv6"))
        await here.start()
        network = here.network
        for address in ("10.96.0.10", "fd96::10"):
            for source in ("a", "d", "m1", "m2"):
                # An IPv6 address that is just made answers a moment later, and user space spares who did not answer.
                await network.until_reached({"b", "c"}, source, address)
            with network.datagrams("a", address, 53) as client:
                assert (await network.exchange(client)).split()[0] in ("b", "c")
        if mode == "nftables":
            assert (await network.ask("a", "10.96.0.10")).endswith(f"from {network.address('a')}")


NODE_PORTS = [TCP | {"nodePort": 30080}, UDP | {"nodePort": 30053}]


async def test_node_ports_on_every_node(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        addresses = ["10.96.0.10", "fd96::10"]
        web = service(ip=addresses[0], clusterIPs=addresses, type="NodePort", ports=NODE_PORTS)
        here.api.put(web, *backends("a", "b"), *backends("a", "b", family="IPv6"))
        await here.start()
        network = here.network
        for family in ("IPv4", "IPv6"):
            for node in ("m1", "m2"):  # m2 has no endpoint
                address = network.address(node, family)
                for source in ("outside", "c", "m1", "m2"):
                    assert set(await network.reached(source, address, 30080, 20)) == {"a", "b"}, (source, address)
                with network.datagrams("outside", address, 30053) as client:
                    assert (await network.exchange(client)).split()[0] in ("a", "b")
        with pytest.raises(ConnectionRefusedError):
            await network.ask("outside", network.address("m1"), 30081)


async def test_external_traffic_policy_local(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        web = service(
            ip="10.96.0.10",
            type="LoadBalancer",
            ports=NODE_PORTS,
            externalTrafficPolicy="Local",
            healthCheckNodePort=32000,
            externalIPs=["192.0.2.7"],
        )
        here.api.put(web, *backends("a", "b"))
        await here.start()
        network = here.network
        m1, m2 = network.address("m1"), network.address("m2")
        assert set(await network.reached("outside", m1, 30080, 20)) == {"a", "b"}
        assert await network.reached("outside", m2, 30080) == {"refused": 1}
        if mode == "nftables":
            assert (await network.ask("outside", m1, 30080)).endswith(f"from {network.address('outside')}")
        # Whoever is in the cluster has every endpoint.
        for source in ("c", "m2"):
            assert set(await network.reached(source, m2, 30080, 20)) == {"a", "b"}, source
            assert set(await network.reached(source, "192.0.2.7", 80, 20)) == {"a", "b"}, source
        assert set(await network.reached("outside", "192.0.2.7", 80, 20)) == {"a", "b"}
        # A socket that some may use is silent towards the others.
        refusal = ConnectionRefusedError if mode == "nftables" else TimeoutError
        with pytest.raises(refusal), network.datagrams("outside", m2, 30053) as client:
            await network.exchange(client, timeout_s=1)
        there = await here.proxies["m1"].get(32000, "/", m1)
        assert there.startswith("HTTP/1.0 200") and '"localEndpoints":2' in there
        assert '"service":{"namespace":"n","name":"web"}' in there and '"serviceProxyHealthy":true' in there
        assert (await here.proxies["m2"].get(32000, "/healthz", m2)).startswith("HTTP/1.0 503")


async def test_load_balancer_addresses_and_source_ranges(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        ranges = {"outside": ["192.168.77.9/32", "fd77::9/128"], "c": ["10.1.0.0/16", "fd01::/16"]}
        web = service(ip="10.96.0.10", clusterIPs=["10.96.0.10", "fd96::10"], type="LoadBalancer", ports=[TCP])
        ingress = [{"ip": "192.0.2.8"}, {"ip": "fd96::18"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}]
        web["status"] = {"loadBalancer": {"ingress": ingress}}
        web["spec"]["loadBalancerSourceRanges"] = ranges["outside"]
        here.api.put(web, *backends("a", "b"), *backends("a", "b", family="IPv6"))
        await here.start()
        network = here.network
        for admitted, other in (("outside", "c"), ("c", "outside")):
            web["spec"]["loadBalancerSourceRanges"] = ranges[admitted]
            here.api.put(web)
            for address in ("192.0.2.8", "fd96::18"):
                await network.until_reached({"a", "b"}, admitted, address)
                with pytest.raises((ConnectionError, TimeoutError)):
                    await network.ask(other, address, timeout_s=0.5)
            assert set(await network.reached(other, "10.96.0.10", count=20)) == {"a", "b"}  # ranges are the balancer's
        with pytest.raises(OSError):
            await network.ask("outside", "192.0.2.9", timeout_s=0.5)


async def test_no_endpoint_is_refused_at_once(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        addresses = ["10.96.0.10", "fd96::10"]
        web = service(
            ip=addresses[0], clusterIPs=addresses, type="NodePort", ports=NODE_PORTS, externalIPs=["192.0.2.7"]
        )
        here.api.put(web)
        await here.start()
        network = here.network
        targets = [("10.96.0.10", 80), ("fd96::10", 80), ("10.96.0.10", 81), (network.address("m1"), 30080)]
        for source in ("a", "m1", "outside"):
            for address, port in (*targets, ("192.0.2.7", 80)):
                with pytest.raises(ConnectionRefusedError):
                    await network.ask(source, address, port, timeout_s=2)
            for address, port in (("10.96.0.10", 53), ("fd96::10", 53), (network.address("m1"), 30053)):
                refusal = (ConnectionRefusedError, PermissionError)  # a sender on the node itself may not even send
                with pytest.raises(refusal), network.datagrams(source, address, port) as client:
                    await network.exchange(client, timeout_s=2)
        here.api.put(*backends("a"))
        await network.until_reached({"a"}, "outside", "10.96.0.10")
        here.api.put(*backends("a", ready=False))
        await network.until_reached({"refused"}, "outside", "10.96.0.10")


async def test_connections_are_spread_evenly(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        here.api.put(service(ip="10.96.0.10", ports=[TCP]), *backends(*PODS))
        await here.start(on=("m1",))
        count = 400
        found = await here.network.reached("a", "10.96.0.10", count=count)
        assert set(found) == set(PODS)
        chi_squared = sum((each - count / 4) ** 2 / (count / 4) for each in found.values())
        assert chi_squared < 24.3, found  # 3 degrees of freedom: by chance once in 50,000


async def test_affinity_and_its_end(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        config = {"clientIP": {"timeoutSeconds": 2}}
        web = service(
            ip="10.96.0.10", type="NodePort", ports=NODE_PORTS, sessionAffinity="ClientIP", sessionAffinityConfig=config
        )
        here.api.put(web, *backends("a", "b", "c", "d"))
        await here.start(on=("m1",))
        network = here.network
        targets = [("a", "10.96.0.10", 80), ("m1", "10.96.0.10", 80), ("outside", network.address("m1"), 30080)]
        for source, address, port in targets:
            assert len(await network.reached(source, address, port, 12)) == 1, source
        (first,) = await network.reached("a", "10.96.0.10", count=3)
        here.api.put(*backends(*(PODS.keys() - {first})))  # its endpoint goes
        deadline = asyncio.get_running_loop().time() + 10
        while first in (found := await network.reached("a", "10.96.0.10", count=8)):
            assert asyncio.get_running_loop().time() < deadline
        assert len(found) == 1
        # A client that stays away for long enough begins anew: with 3 endpoints, it meets another one soon.
        (second,) = found
        async with asyncio.timeout(60):
            while set(await network.reached("a", "10.96.0.10")) == {second}:
                if mode == "userspace":
                    break  # there the first choice is a hash of the client
                await asyncio.sleep(2.2)


async def test_a_pod_reaches_itself(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        addresses = ["10.96.0.10", "fd96::10"]
        web = service(ip=addresses[0], clusterIPs=addresses, type="NodePort", ports=NODE_PORTS)
        here.api.put(web, *backends("a"), *backends("a", family="IPv6"))
        await here.start(on=("m1",))
        network = here.network
        for address, port in (("10.96.0.10", 80), ("fd96::10", 80), (network.address("m1"), 30080)):
            assert await network.reached("a", address, port, 5) == {"a": 5}
        with network.datagrams("a", "10.96.0.10", 53) as client:
            assert (await network.exchange(client)).startswith("a from")


async def test_endpoints_in_the_nodes_network(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        addresses = ["10.96.0.10", "fd96::10"]
        web = service(ip=addresses[0], clusterIPs=addresses, type="NodePort", ports=NODE_PORTS)
        here.api.put(web, *backends("m1", "m2"), *backends("m1", "m2", family="IPv6"))
        await here.start(on=("m1",))
        for source in ("a", "m1", "outside"):
            for address, port in (("10.96.0.10", 80), ("fd96::10", 80), (here.network.address("m1"), 30080)):
                assert set(await here.network.reached(source, address, port, 20)) == {"m1", "m2"}, (source, address)


async def test_an_endpoint_goes(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        here.api.put(service(ip="10.96.0.10", ports=[TCP, UDP]), *backends("b"))
        await here.start(on=("m1",))
        network = here.network
        reader, writer = await network.open("a", "10.96.0.10", 80)
        assert (await reader.readline()).startswith(b"b")
        with network.datagrams("a", "10.96.0.10", 53) as client:
            assert (await network.exchange(client)).startswith("b")
            here.api.put(*backends("c"))
            await network.until_reached({"c"}, "a", "10.96.0.10")
            # The socket is the same one: its flow is sent elsewhere.
            async with asyncio.timeout(10):
                while not (await network.exchange(client)).startswith("c"):  # noqa: ASYNC110  # a probe
                    await asyncio.sleep(0.05)
        writer.write(b"still there?\n")
        assert await reader.readline() == b"still there?\n"
        writer.close()


async def test_which_endpoints(mode: str, tmp_path: Path) -> None:
    """Terminating ones when none is ready; internalTrafficPolicy Local; hints of zones and nodes."""
    async with cluster(mode, tmp_path) as here:
        here.api.put(
            service("going", "10.96.0.11", ports=[TCP]),
            *backends("a", "c", name="going", ready=False, serving=True, terminating=True),
            service("here", "10.96.0.12", ports=[TCP], internalTrafficPolicy="Local"),
            *backends("a", "c", name="here"),
            service("near", "10.96.0.13", ports=[TCP], trafficDistribution="PreferSameZone"),
            service("same", "10.96.0.14", ports=[TCP], trafficDistribution="PreferSameNode"),
            service("zone", "10.96.0.15", ports=[TCP], trafficDistribution="PreferSameNode"),
        )
        # On m1 there is none: the zone's are next, and elsewhere all.
        slices = backends("c", "d", name="zone")
        for each in slices:
            for found, zone in zip(each["endpoints"], ("zone-m1", "zone-x"), strict=True):
                found["hints"] = {"forNodes": [{"name": "m2"}], "forZones": [{"name": zone}]}
        here.api.put(*slices)
        for name, hint in (("near", "forZones"), ("same", "forNodes")):
            slices = backends("a", "c", name=name)
            for each in slices:
                for found in each["endpoints"]:
                    place = found["nodeName"] if hint == "forNodes" else f"zone-{found['nodeName']}"
                    found["hints"] = {hint: [{"name": place}]}
            here.api.put(*slices)
        await here.start()
        network = here.network
        assert set(await network.reached("b", "10.96.0.11", count=20)) == {"a", "c"}
        for address in ("10.96.0.12", "10.96.0.13", "10.96.0.14"):
            assert await network.reached("b", address, count=10) == {"a": 10}, address
            assert await network.reached("d", address, count=10) == {"c": 10}, address
        assert await network.reached("b", "10.96.0.15", count=10) == {"c": 10}
        assert set(await network.reached("d", "10.96.0.15", count=20)) == {"c", "d"}
        here.api.put(*backends("a", name="going"), *backends("a", name="here"), *backends("d", name="same"))
        await network.until_reached({"d"}, "b", "10.96.0.14")
        await network.until_reached({"a"}, "b", "10.96.0.11")
        await network.until_reached({"refused"}, "d", "10.96.0.12")


async def test_the_mode_is_found_and_rules_are_cleaned_up(mode: str, tmp_path: Path) -> None:
    async with cluster("auto" if mode == "nftables" else mode, tmp_path) as here:
        here.api.put(service(ip="10.96.0.10", ports=[TCP]), *backends("b"))
        network = here.network
        network.spaces["m1"].run("nft", "add", "table", "ip", "theirs")
        await here.start(on=("m1",))
        proxy = here.proxies["m1"]
        assert (await proxy.get(10256, "/proxyMode")).endswith(mode)
        assert ("raykube-proxy" in here.nft("m1", "list", "tables")) == (mode == "nftables")
        proxy.stop()
        if mode == "nftables":
            assert await network.reached("a", "10.96.0.10", count=5) == {"b": 5}  # rules outlive a stop
            # In the other mode they would be in front of its sockets.
            here.mode = "userspace"
            await here.start(on=("m1",))
            assert here.nft("m1", "list", "tables").split() == ["table", "ip", "theirs"]
            here.proxies["m1"].stop()
            here.mode = "nftables"
            await here.start(on=("m1",))
            here.proxies["m1"].stop()
            for _ in range(2):
                network.spaces["m1"].run(sys.executable, "-m", "raykube", "kube-proxy", "--cleanup")
                assert here.nft("m1", "list", "tables").split() == ["table", "ip", "theirs"]


async def test_kill_and_restart(mode: str, tmp_path: Path) -> None:
    async with cluster(mode, tmp_path) as here:
        old, web = service("old", "10.96.0.20", ports=[TCP]), service(ip="10.96.0.10", ports=[TCP, UDP])
        here.api.put(web, *backends("b"), old, *backends("a", name="old"))
        await here.start(on=("m1",))
        network, proxy = here.network, here.proxies["m1"]
        await network.until_reached({"b"}, "a", "10.96.0.10")
        with network.datagrams("a", "10.96.0.10", 53) as client:
            assert (await network.exchange(client)).startswith("b")
            proxy.kill()
            rules_outlive = mode == "nftables"
            for source in ("a", "m1", "outside"):
                expected = {"b": 5} if rules_outlive else {"refused": 5}
                assert await network.reached(source, "10.96.0.10", count=5) == expected, source
            here.api.delete(old)
            here.api.put(*backends("c"))
            await proxy.start()
            assert await network.reached("a", "10.96.0.10", count=10) == {"c": 10}
            if not rules_outlive:
                assert await network.reached("a", "10.96.0.20") == {"refused": 1}
            async with asyncio.timeout(10):
                while not (await network.exchange(client)).startswith("c"):  # noqa: ASYNC110  # a probe
                    await asyncio.sleep(0.05)
        if rules_outlive:
            assert "10.96.0.20" not in here.nft("m1", "list", "ruleset")
