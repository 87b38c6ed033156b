"""Cluster IPs and node ports: given once, by however many apiservers, and given again when a Service goes."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver import services as service_addresses
from raykube.apiserver.core.planning import CREATE, Operation
from raykube.apiserver.services import Held, ServiceAddresses
from raykube.client import operations
from tests.apiserver.test_rest import call
from tests.kit.apiservers import Apiservers
from tests.kit.waiting import until

SERVICES = builtin("v1", "Service")
PATH = "/api/v1/namespaces/default/services"
NETWORK, PORTS = "10.9.0.0/26", range(31000, 31032)


def service(name: str, **spec: object) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": {"ports": [{"port": 80}], **spec}}


def claims(obj: dict[str, Any]) -> set[object]:
    """The addresses and ports of a Service, each for it alone."""
    spec = obj["spec"]
    ports = {port.get("nodePort") for port in spec.get("ports") or ()} | {spec.get("healthCheckNodePort")}
    return {*spec.get("clusterIPs", ()), *ports} - {None, "None"}


class Auditor:
    """Reads every change of every Service in the order of revisions: no two ever have the same address or port."""

    def __init__(self) -> None:
        self.holders: dict[object, str] = {}
        self.held: dict[str, set[object]] = {}
        self.violations: list[str] = []
        self.events = 0

    def see(self, event: dict[str, Any]) -> None:
        obj = event["object"]
        name = obj["metadata"]["name"]
        self.events += 1
        for claim in self.held.pop(name, set()):
            del self.holders[claim]
        if event["type"] == "DELETED":
            return
        self.held[name] = set()
        for claim in claims(obj):
            if claim in self.holders:
                self.violations.append(f"{claim} of {self.holders[claim]} was given to {name}")
            else:
                self.holders[claim] = name
                self.held[name].add(claim)

    async def saw(self, *names: str) -> None:
        """Returns when these are among what there is."""
        await until(lambda: set(names) <= set(self.held))

    async def follow(self, session: aiohttp.ClientSession) -> None:
        async with session.get("/api/v1/services?watch=1&resourceVersion=0") as watch:
            async for line in watch.content:
                self.see(json.loads(line))


@asynccontextmanager
async def audited(servers: Apiservers) -> AsyncIterator[Auditor]:
    auditor = Auditor()
    async with servers.session() as session:
        task = asyncio.create_task(auditor.follow(session))
        try:
            yield auditor
            await asyncio.sleep(0)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_services_get_addresses_that_nobody_else_has(tmp_path: Path) -> None:
    async with (
        Apiservers(
            tmp_path, 2, service_cluster_ip_range="10.9.0.0/27", service_node_port_range="31000-31009"
        ) as servers,
        servers.client(index=0) as one,
        servers.client(index=1) as two,
    ):
        own = await one.get(SERVICES, "default", "kubernetes")
        assert own["spec"]["clusterIP"] == "10.9.0.1"
        creations = [
            [operations.create(service(f"{who}{index}", type="NodePort")) for index in range(5)] for who in ("a", "b")
        ]
        answers = await asyncio.gather(
            one.write(creations[0], return_objects=True), two.write(creations[1], return_objects=True)
        )
        made = [orjson.loads(result.body) for results in answers for result in results]
        assert all(each["kind"] == "Service" for each in made), made
        assert len({each["spec"]["clusterIP"] for each in made}) == 10
        assert {each["spec"]["ports"][0]["nodePort"] for each in made} == set(range(31000, 31010))
        (full,) = await one.write([operations.create(service("c", type="NodePort"))])
        assert (full.code, "range is full" in full.body.decode()) == (500, True)
        taken = made[0]["spec"]["clusterIP"]
        (refused,) = await two.write([operations.create(service("d", clusterIP=taken))])
        assert (refused.code, "already allocated" in refused.body.decode()) == (422, True)
        replaced = await one.update(service("a0", type="NodePort", selector={"a": "b"}))
        assert replaced["spec"]["clusterIP"] == taken
        assert replaced["spec"]["ports"][0]["nodePort"] == made[0]["spec"]["ports"][0]["nodePort"]
        await two.delete(SERVICES, "default", "a0")
        again = await one.create(service("d", clusterIP=taken, type="NodePort"))
        assert again["spec"]["ports"][0]["nodePort"] == made[0]["spec"]["ports"][0]["nodePort"]
        plain = await one.update(again | {"spec": again["spec"] | {"type": "ClusterIP"}})
        assert "nodePort" not in plain["spec"]["ports"][0]
        await two.create(service("e", type="NodePort"))  # the port that was given up


def _drawn(dice: random.Random) -> dict[str, Any]:
    """What a Service asks for: now and then an address or port by its number."""
    spec: dict[str, Any] = {"type": dice.choice(["ClusterIP", "NodePort", "LoadBalancer"])}
    if spec["type"] == "LoadBalancer":
        spec["externalTrafficPolicy"] = dice.choice(["Local", "Cluster"])
    if dice.random() < 0.3:
        spec["clusterIP"] = str(ip_network(NETWORK)[dice.randrange(2, 40)])
    if spec["type"] != "ClusterIP" and dice.random() < 0.3:
        spec["ports"] = [{"port": 80, "nodePort": dice.choice(PORTS)}]
    return spec


async def _worker(session: aiohttp.ClientSession, who: str, seed: int, rounds: int) -> int:
    """Creates, changes and deletes Services; some requests are given up midway. Returns how many were made."""
    dice, mine, made = random.Random(seed), list[str](), 0
    for number in range(rounds):
        name = f"{who}-{number}"
        what = dice.random()
        if what < 0.55 or not mine:
            request = call(session, "POST", PATH, service(name, **_drawn(dice)))
        elif what < 0.75:
            name = dice.choice(mine)
            kind = dice.choice(["ClusterIP", "NodePort", "LoadBalancer"])
            patch = {"spec": {"type": kind}}
            request = call(session, "PATCH", f"{PATH}/{name}", patch, Content_Type="application/merge-patch+json")
        else:
            name = mine.pop(dice.randrange(len(mine)))
            request = call(session, "DELETE", f"{PATH}/{name}")
        try:
            async with asyncio.timeout(dice.choice([None, None, None, 0.002, 0.01])):
                code, answer = await request
        except TimeoutError:
            continue  # nobody knows whether it happened
        assert code in (200, 201, 404, 409, 422, 500), answer
        assert code != 500 or "range is full" in answer["message"], answer
        if code == 201:
            mine.append(name)
            made += 1
    return made


async def test_nobody_gets_what_another_has_whatever_is_given_up_midway(tmp_path: Path) -> None:
    flags = {"service_cluster_ip_range": NETWORK, "service_node_port_range": f"{PORTS[0]}-{PORTS[-1]}"}
    async with Apiservers(tmp_path, 3, **flags) as servers, audited(servers) as auditor:
        async with contextlib.AsyncExitStack() as stack:
            sessions = [await stack.enter_async_context(servers.session(index=index)) for index in range(3)]
            workers = [_worker(sessions[n % 3], f"w{n}", seed=n, rounds=40) for n in range(9)]
            made = sum(await asyncio.gather(*workers))
            assert made > 60
            assert auditor.violations == []
            await until(lambda: not _on_their_way())
            found = await _filled(servers, sessions[1])
            await auditor.saw(*(each["metadata"]["name"] for each in found))
            ips = {ip_address(each["spec"]["clusterIP"]) for each in found}
            assert ips == set(ip_network(NETWORK).hosts()) - {ip_address("10.9.0.1")}
            ports = {port["nodePort"] for each in found for port in each["spec"]["ports"] if "nodePort" in port}
            assert ports == set(PORTS)
        assert auditor.violations == []


def _on_their_way() -> list[asyncio.Task[Any]]:
    """The apiservers' writes, which run in this loop: a client that gives up does not stop them."""
    return [task for task in asyncio.all_tasks() if "Dispatch.__call__" in repr(task.get_coro())]


async def _filled(servers: Apiservers, session: aiohttp.ClientSession) -> list[dict[str, Any]]:
    """Services with every address and port that there is, after all others are gone."""
    _, listed = await call(session, "GET", PATH)
    for name in {each["metadata"]["name"] for each in listed["items"]} - {"kubernetes"}:
        await call(session, "DELETE", f"{PATH}/{name}")
    await _addresses(servers).repair(time.time() + service_addresses.ORPHAN_AGE_S + 1)
    count = ip_network(NETWORK).num_addresses - 3  # network, broadcast, kubernetes
    kinds = ["NodePort"] * len(PORTS) + ["ClusterIP"] * (count - len(PORTS))
    creations = [operations.create(service(f"f{n}", type=kind)) for n, kind in enumerate(kinds)]
    async with servers.client(index=2) as api:
        results = await api.write(creations, return_objects=True)
    assert [result.code for result in results] == [201] * count, results
    return [orjson.loads(result.body) for result in results]


def _addresses(servers: Apiservers, *networks: str) -> ServiceAddresses:
    store = servers.instances[0]._store
    assert store is not None
    return ServiceAddresses(store, SERVICES, networks or [NETWORK], PORTS)


async def _taken(addresses: ServiceAddresses, name: str, **spec: Any) -> tuple[dict[str, Any], Held]:
    """A Service with its addresses, before it is written."""
    obj = service(name, clusterIPs=[spec["clusterIP"]] if "clusterIP" in spec else [], ipFamilies=["IPv4"], **spec)
    obj["metadata"]["uid"] = f"uid-{name}"
    op, held = Operation(CREATE, SERVICES, "default", name), Held()
    return orjson.loads(await addresses.allocate(op, orjson.dumps(obj), None, held)), held


async def test_what_was_freed_meanwhile_and_given_to_another_stays_his(tmp_path: Path) -> None:
    async with Apiservers(tmp_path, service_cluster_ip_range=NETWORK) as servers:
        addresses = _addresses(servers)
        slow, held = await _taken(addresses, "slow")
        assert not held.is_old(time.time())
        assert held.is_old(time.time() + service_addresses.ORPHAN_AGE_S * 0.6)
        ip = slow["spec"]["clusterIP"]
        with pytest.raises(ApiError, match="already allocated"):
            await _taken(addresses, "other", clusterIP=ip)
        await addresses.repair(time.time() + service_addresses.ORPHAN_AGE_S + 1)
        await _taken(addresses, "other", clusterIP=ip)
        await addresses.abandon(held)
        with pytest.raises(ApiError, match="already allocated"):
            await _taken(addresses, "third", clusterIP=ip)


async def test_addresses_that_took_too_long_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Apiservers(tmp_path, service_cluster_ip_range=NETWORK) as servers, servers.client() as api:
        with monkeypatch.context() as patched:
            patched.setattr(service_addresses, "ORPHAN_AGE_S", 0.0)
            (late,) = await api.write([operations.create(service("a", clusterIP="10.9.0.9"))])
            assert (late.code, b"took too long" in late.body) == (503, True)
        made = await api.create(service("a", clusterIP="10.9.0.9"))
        assert made["spec"]["clusterIPs"] == ["10.9.0.9"]


async def test_what_a_refused_service_took_is_free_at_once(tmp_path: Path) -> None:
    async with Apiservers(tmp_path, service_node_port_range="31000-31001") as servers, servers.client() as api:
        await api.create(service("a", type="NodePort"))
        for _ in range(3):
            (refused,) = await api.write([operations.create(service("a", type="NodePort"))])
            assert (refused.code, orjson.loads(refused.body)["reason"]) == (409, "AlreadyExists")
        await api.create(service("b", type="NodePort"))


async def test_who_names_no_address_leaves_the_low_ones_to_others(tmp_path: Path) -> None:
    flags = {"service_cluster_ip_range": "10.9.0.0/24", "service_node_port_range": "31000-32023"}
    async with Apiservers(tmp_path, **flags) as servers, servers.client() as api:
        results = await api.write(
            [operations.create(service(f"s{n}", type="NodePort")) for n in range(40)], return_objects=True
        )
        for result in results:
            spec = orjson.loads(result.body)["spec"]
            assert int(spec["clusterIP"].split(".")[-1]) > 16
            assert spec["ports"][0]["nodePort"] >= 31032


async def test_ports_of_load_balancers(tmp_path: Path) -> None:
    async with Apiservers(tmp_path, service_node_port_range="31000-31009") as servers, servers.client() as api:
        spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
        both = [{"name": "a", "port": 53, "protocol": "TCP"}, {"name": "b", "port": 53, "protocol": "UDP"}]
        made = await api.create(service("dns", **spec, ports=both))
        tcp, udp = (port["nodePort"] for port in made["spec"]["ports"])
        health = made["spec"]["healthCheckNodePort"]
        assert tcp == udp != health and {tcp, health} <= set(range(31000, 31010))
        (refused,) = await api.write([operations.create(service("b", **spec, healthCheckNodePort=health))])
        assert orjson.loads(refused.body)["message"] == (
            f"Internal error occurred: failed to allocate requested HealthCheck NodePort {health}: "
            "provided port is already allocated"
        )
        low = service("b", type="NodePort", ports=[{"port": 80, "nodePort": 80}])
        (refused,) = await api.write([operations.create(low)])
        assert orjson.loads(refused.body)["message"] == (
            'Service "b" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid '
            "range. The range of valid ports is 31000-31009"
        )
        none = service("none", type="LoadBalancer", allocateLoadBalancerNodePorts=False)
        assert "nodePort" not in (await api.create(none))["spec"]["ports"][0]
        asked = service("asked", type="LoadBalancer", allocateLoadBalancerNodePorts=False)
        free = next(port for port in range(31000, 31010) if port not in (tcp, health))
        asked["spec"]["ports"] = [{"port": 80, "nodePort": free}]
        assert (await api.create(asked))["spec"]["ports"][0]["nodePort"] == free
        (refused,) = await api.write([operations.create(service("b", type="NodePort", ports=asked["spec"]["ports"]))])
        assert f"Invalid value: {free}: provided port is already allocated" in refused.body.decode()
        # With the policy, the health-check port goes, and comes again.
        cluster = await api.update(made | {"spec": made["spec"] | {"externalTrafficPolicy": "Cluster"}})
        assert "healthCheckNodePort" not in cluster["spec"]
        # Without node ports: one that is drawn might be the very port.
        await api.create(service("b", **spec, healthCheckNodePort=health, allocateLoadBalancerNodePorts=False))
        local = await api.update(cluster | {"spec": cluster["spec"] | {"externalTrafficPolicy": "Local"}})
        assert local["spec"]["healthCheckNodePort"] not in (0, None, health)


async def test_two_families(tmp_path: Path) -> None:
    networks = "10.9.0.0/24,fd09::/112"
    async with Apiservers(tmp_path, service_cluster_ip_range=networks) as servers, servers.client() as api:

        async def made(name: str, **spec: object) -> dict[str, Any]:
            found: dict[str, Any] = (await api.create(service(name, **spec)))["spec"]
            return found

        def families(spec: dict[str, Any]) -> list[str]:
            assert spec["clusterIPs"][0] == spec["clusterIP"]
            of_ips = [f"IPv{ip_address(ip).version}" for ip in spec["clusterIPs"]]
            assert of_ips == spec["ipFamilies"]
            return of_ips

        assert families(await made("plain")) == ["IPv4"]
        assert families(await made("six", ipFamilies=["IPv6"])) == ["IPv6"]
        prefers = await made("prefers", ipFamilyPolicy="PreferDualStack")
        assert families(prefers) == ["IPv4", "IPv6"]
        turned = await made("turned", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6"])
        assert families(turned) == ["IPv6", "IPv4"]
        named = await made("named", ipFamilyPolicy="PreferDualStack", clusterIP="fd09::0099", clusterIPs=["fd09::0099"])
        assert (named["clusterIPs"][0], families(named)) == ("fd09::0099", ["IPv6", "IPv4"])
        (taken,) = await api.write([operations.create(service("b", clusterIP="fd09::99"))])
        assert "failed to allocate IP fd09::99: provided IP is already allocated" in taken.body.decode()
        # A second address comes and goes with the policy; the first one stays.
        plain = await api.get(SERVICES, "default", "plain")
        grown = await api.update(plain | {"spec": plain["spec"] | {"ipFamilyPolicy": "RequireDualStack"}})
        assert families(grown["spec"]) == ["IPv4", "IPv6"]
        assert grown["spec"]["clusterIPs"][0] == plain["spec"]["clusterIP"]
        shrunk = await api.update(grown | {"spec": grown["spec"] | {"ipFamilyPolicy": "SingleStack"}})
        assert shrunk["spec"]["clusterIPs"] == plain["spec"]["clusterIPs"]
        again = await made("again", clusterIP=grown["spec"]["clusterIPs"][1])
        assert families(again) == ["IPv6"]
        # What becomes a name has no address any more.
        named_only = await api.update(shrunk | {"spec": shrunk["spec"] | {"type": "ExternalName", "externalName": "a"}})
        assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & set(named_only["spec"])
        assert (await made("c", clusterIP=plain["spec"]["clusterIP"]))["clusterIP"] == plain["spec"]["clusterIP"]
        own = await api.get(SERVICES, "default", "kubernetes")
        assert own["spec"]["clusterIPs"] == ["10.9.0.1"]
