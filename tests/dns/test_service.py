"""The whole DNS server: flags in, answers out, with a real apiserver at the other end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from dnslib import RCODE, RR, A, DNSRecord

from raykube.api.errors import ApiError
from raykube.api.resources import Resource, by_kind
from raykube.client.api import ApiClient
from raykube.dns.config import Config
from raykube.dns.core.registration import own_slices
from raykube.dns.service import Service
from tests.dns.asking import Upstream, addresses, ask_tcp, ask_udp, send_tcp
from tests.dns.objects import Object, endpoint_slice, query, service
from tests.kit import pki
from tests.kit.apiservers import Apiservers
from tests.kit.waiting import until

USER = "system:kube-dns"
DNS_IP = "10.96.0.10"


def resource(group: str, kind: str) -> Resource:
    found = by_kind(group, "v1", kind)
    assert found is not None
    return found


SLICES = resource("discovery.k8s.io", "EndpointSlice")


@asynccontextmanager
async def dns(servers: Apiservers, **flags: Any) -> AsyncIterator[Service]:
    files = pki.tls(USER)
    config: dict[str, Any] = {
        "hostname_override": "m1",
        "api_servers": [servers.address("grpc")],
        "tls_cert_file": files.cert_file,
        "tls_private_key_file": files.key_file,
        "client_ca_file": files.ca_file,
        "port": 0,
        "forward": ["127.0.0.1:9"],
        "healthz_bind_address": "127.0.0.1:0",
        "lameduck": 0,
    }
    server = Service(Config(**(config | flags)))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def at(server: Service) -> tuple[str, int]:
    listed: Any = server.status()["addresses"]
    host, _, port = next(text for name, text in listed.items() if name.startswith("dns ")).rpartition(":")
    return host, int(port)


async def page(server: Service, path: str) -> tuple[int, str]:
    listed: Any = server.status()["addresses"]
    async with ClientSession() as session, session.get(f"http://{listed['healthz']}{path}") as answer:
        return answer.status, await answer.text()


async def answered(server: Service, name: str, expected: list[str], kind: str = "A") -> None:
    """Returns once the answer is what is expected, in whatever order."""
    async with asyncio.timeout(10):
        while sorted(addresses(await ask_udp(at(server), name, kind))) != sorted(expected):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def create(client: ApiClient, *objects: Object) -> None:
    for obj in objects:
        await client.create(obj)


async def get(client: ApiClient, kind: Resource, namespace: str, name: str) -> Object | None:
    with suppress(ApiError):
        return await client.get(kind, namespace, name)
    return None


def headless(name: str) -> Object:
    return service(name, "None", ports=["pg:5432/TCP"])


def virtual(name: str, ip: str) -> Object:
    return service(name, ip, ports=["http:80/TCP"])


async def test_names_follow_the_cluster(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, servers.client() as client, dns(servers) as server:
        await until(lambda: server.status()["healthy"])
        await answered(server, "kubernetes.default.svc.cluster.local", ["10.96.0.1"])
        await create(client, virtual("web", "10.96.0.77"), headless("db"))
        await answered(server, "web.default.svc.cluster.local", ["10.96.0.77"])
        await answered(server, "77.0.96.10.in-addr.arpa", ["web.default.svc.cluster.local."], "PTR")
        await create(client, endpoint_slice("db", "db-0=10.9.0.1", "10.9.0.2", ports=["pg:5432/TCP"]))
        await answered(server, "db.default.svc.cluster.local", ["10.9.0.1", "10.9.0.2"])
        await client.patch(SLICES, "default", "db-1", {"endpoints": [{"addresses": ["10.9.0.3"]}]})
        await answered(server, "db.default.svc.cluster.local", ["10.9.0.3"])
        await client.delete(resource("", "Service"), "default", "web")
        await answered(server, "web.default.svc.cluster.local", [])
        assert RCODE[(await ask_udp(at(server), "web.default.svc.cluster.local")).header.rcode] == "NXDOMAIN"


async def test_udp_and_tcp_and_the_pages(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, servers.client() as client, dns(servers) as server:
        await until(lambda: server.status()["healthy"])
        await create(client, headless("big"))
        points = [f"10.9.1.{number}" for number in range(1, 101)]
        await create(client, endpoint_slice("big", *points))
        name = "big.default.svc.cluster.local"
        async with asyncio.timeout(10):
            while not (short := await ask_udp(at(server), name)).rr:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert short.header.tc
        assert 20 < len(short.rr) < 100
        assert len((await ask_udp(at(server), name, edns=1232)).rr) > len(short.rr)
        assert sorted(addresses(await ask_tcp(at(server), name))) == sorted(points)
        many = await send_tcp(at(server), *(query(name, number=number) for number in range(250)))
        assert [DNSRecord.parse(each).header.id for each in many] == list(range(250))
        assert await page(server, "/health") == (200, "OK")
        assert await page(server, "/ready") == (200, "OK")
        _, text = await page(server, "/metrics")
        lines = text.splitlines()
        assert 'coredns_dns_requests_total{proto="tcp",type="A",zone="cluster.local."} 251' in lines
        assert any(line.startswith('coredns_dns_responses_total{rcode="NOERROR",') for line in lines)
        assert any(
            line.startswith('coredns_dns_request_duration_seconds_count{zone="cluster.local."} ') for line in lines
        )


async def test_a_server_joins_the_service_and_leaves_it(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, servers.client() as client:
        async with dns(servers, cluster_dns=[DNS_IP]) as server:
            async with asyncio.timeout(10):
                while (found := await get(client, SLICES, "kube-system", "kube-dns-m1-ipv4")) is None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            made = await client.get(resource("", "Service"), "kube-system", "kube-dns")
            assert made["spec"]["clusterIP"] == DNS_IP
            assert made["metadata"]["labels"]["k8s-app"] == "kube-dns"
            (point,) = found["endpoints"]
            assert point["addresses"] == ["127.0.0.1"]
            assert point["conditions"]["ready"] is True
            assert {port["name"]: port["port"] for port in found["ports"]}["dns"] == at(server)[1]
            await answered(server, "kube-dns.kube-system.svc.cluster.local", [DNS_IP])
            # Whatever happens to either, they come again.
            await client.delete(SLICES, "kube-system", "kube-dns-m1-ipv4")
            await client.delete(resource("", "Service"), "kube-system", "kube-dns")

            async def whole() -> bool:
                one = await get(client, resource("", "Service"), "kube-system", "kube-dns")
                other = await get(client, SLICES, "kube-system", "kube-dns-m1-ipv4")
                if one is None or other is None:
                    return False
                owners = other["metadata"]["ownerReferences"]
                return bool(owners[0]["uid"] == one["metadata"]["uid"] != made["metadata"]["uid"])

            async with asyncio.timeout(10):
                while not await whole():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert await get(client, SLICES, "kube-system", "kube-dns-m1-ipv4") is None


async def test_a_lost_machine_leaves_the_service(tmp_path: Path) -> None:
    """The server of m2 never says a word: m1's, which is elected, speaks for it as its Node says."""

    def node(name: str, ready: str) -> Object:
        conditions = [{"type": "Ready", "status": ready}]
        return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": conditions}}

    async with Apiservers(tmp_path) as servers, servers.client() as client:
        for name in ("m1", "m2"):
            made = await client.create(node(name, "True"))
            made["status"] = node(name, "True")["status"]
            await client.update_status(made)
        for name in ("m2", "gone"):
            await client.create(own_slices(name, ["127.0.0.9"], 53, 0, None)[0])
        async with dns(servers, cluster_dns=[DNS_IP]):
            async with asyncio.timeout(15):
                while await get(client, SLICES, "kube-system", "kube-dns-gone-ipv4") is not None:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            kept = await client.get(SLICES, "kube-system", "kube-dns-m2-ipv4")
            assert kept["endpoints"][0]["conditions"]["ready"] is True
            lost = await client.get(resource("", "Node"), "", "m2")
            lost["status"] = node("m2", "Unknown")["status"]
            await client.update_status(lost)
            async with asyncio.timeout(10):
                while True:
                    kept = await client.get(SLICES, "kube-system", "kube-dns-m2-ipv4")
                    if kept["endpoints"][0]["conditions"]["ready"] is False:
                        break
                    await asyncio.sleep(0.02)


async def test_before_an_apiserver_answers_nothing_is_said_to_be_absent(tmp_path: Path) -> None:
    def upstream_answer(record: DNSRecord, _tcp: bool) -> bytes:
        reply = record.reply()
        reply.add_answer(RR(record.q.qname, rdata=A("192.0.2.1"), ttl=60))
        return bytes(reply.pack())

    upstream = await Upstream(upstream_answer).start()
    try:
        async with Apiservers(tmp_path) as servers:
            async with dns(servers, api_servers=["127.0.0.1:9"], forward=[upstream.text]) as server:
                found = await ask_udp(at(server), "kubernetes.default.svc.cluster.local")
                assert RCODE[found.header.rcode] == "SERVFAIL"
                found = await ask_udp(at(server), "1.0.96.10.in-addr.arpa", "PTR")
                assert RCODE[found.header.rcode] == "SERVFAIL"
                assert addresses(await ask_udp(at(server), "example.com")) == ["192.0.2.1"]
                assert (await page(server, "/ready"))[0] == 503
                assert (await page(server, "/health"))[0] == 200
            # And once it was there, its loss changes nothing.
            async with dns(servers, forward=[upstream.text]) as server:
                await until(lambda: server.status()["healthy"])
                await servers.instances.pop().stop()
                await answered(server, "kubernetes.default.svc.cluster.local", ["10.96.0.1"])
                assert (await page(server, "/ready"))[0] == 200
    finally:
        await upstream.stop()


def test_bad_flags_are_one_line() -> None:
    for flags, message in (
        ({}, "api_servers"),
        ({"api_servers": ["a:1"], "forward": ["example.com"]}, "does not appear to be"),
        ({"api_servers": ["a:1"], "bind_addresses": ["x"]}, "does not appear to be"),
        ({"api_servers": ["a:1"], "cluster_domain": "a..b"}, "has a label of 0 bytes"),
        ({"api_servers": ["a:1"], "cluster_domain": "."}, "needs a name"),
        ({"api_servers": ["a:1"], "pods": "verified"}, "insecure"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**flags)  # type: ignore[arg-type]  # on purpose


async def test_a_port_that_is_taken(tmp_path: Path) -> None:
    async with Apiservers(tmp_path) as servers, dns(servers) as first:
        with pytest.raises(OSError, match="is in use; find by whom"):
            async with dns(servers, port=at(first)[1]):
                pass
