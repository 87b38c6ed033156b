"""Names of others: asked upstream, remembered, passed on; and what happens when upstream is slow, wrong, dead or we."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from dnslib import CNAME, QTYPE, RCODE, RR, SOA, TXT, A, DNSRecord

from raykube.dns import server
from raykube.dns.config import Config
from raykube.dns.forward import TOTAL_S
from raykube.dns.service import Service
from tests.dns.asking import Handler, Upstream, addresses, ask_tcp, ask_udp, send_udp
from tests.dns.objects import put, query, service
from tests.kit.waiting import until


@asynccontextmanager
async def upstreams(*handlers: Handler) -> AsyncIterator[list[Upstream]]:
    started = [await Upstream(handler).start() for handler in handlers]
    try:
        yield started
    finally:
        for each in started:
            await each.stop()


@asynccontextmanager
async def dns(*servers: Upstream, **flags: Any) -> AsyncIterator[tuple[Service, tuple[str, int]]]:
    """A DNS server without a cluster: its zone is what the test puts into it."""
    config: dict[str, Any] = {"api_servers": ["127.0.0.1:9"], "port": 0, "healthz_bind_address": ""}
    found = Service(Config(**(config | {"forward": [each.text for each in servers]} | flags)))
    await found.start()
    found.responder.synced = True
    listed: Any = found.status()["addresses"]
    host, _, port = listed["dns 127.0.0.1"].rpartition(":")
    try:
        yield found, (host, int(port))
    finally:
        await found.stop()


def answering(*ips: str, ttl: int = 300) -> Handler:
    def handler(record: DNSRecord, _tcp: bool) -> bytes:
        reply = record.reply()
        for ip in ips:
            reply.add_answer(RR(record.q.qname, rdata=A(ip), ttl=ttl))
        return bytes(reply.pack())

    return handler


def silent(_record: DNSRecord, _tcp: bool) -> None:
    return None


def failing(rcode: str) -> Handler:
    def handler(record: DNSRecord, _tcp: bool) -> bytes:
        reply = record.reply()
        reply.header.rcode = getattr(RCODE, rcode)
        return bytes(reply.pack())

    return handler


def absent(record: DNSRecord, _tcp: bool) -> bytes:
    reply = record.reply()
    reply.header.rcode = RCODE.NXDOMAIN
    soa = SOA("ns.example", "root.example", (1, 2, 3, 4, 17))
    reply.add_auth(RR("example", QTYPE.SOA, rdata=soa, ttl=900))
    return bytes(reply.pack())


async def finds(at: tuple[str, int], name: str, expected: list[str]) -> None:
    """Returns once the answer is what is expected: on a busy machine a server may be thought slow, and asked again."""
    async with asyncio.timeout(60):
        while addresses(await ask_udp(at, name)) != expected:  # noqa: ASYNC110  # nothing to wait on: a probe
            await asyncio.sleep(0.02)


async def test_an_answer_is_passed_on_and_remembered() -> None:
    async with upstreams(answering("192.0.2.1", "192.0.2.2")) as (server,), dns(server) as (_, at):
        first = await ask_udp(at, "www.Example.com")
        assert addresses(first) == ["192.0.2.1", "192.0.2.2"]
        assert str(first.q.qname) == "www.Example.com."  # 0x20: spelled as asked
        assert not first.header.aa
        assert first.header.ra
        assert first.rr[0].ttl == 30  # upstream said 300: --cache-ttl bounds it
        assert addresses(await ask_udp(at, "WWW.example.com", edns=1232)) == ["192.0.2.1", "192.0.2.2"]
        assert addresses(await ask_tcp(at, "www.example.com")) == ["192.0.2.1", "192.0.2.2"]
        assert server.names() == ["www.example.com."]
        await ask_udp(at, "www.example.com", "AAAA")
        assert len(server.names()) == 2


async def test_an_answer_of_no_time_is_not_remembered() -> None:
    async with upstreams(answering("192.0.2.1", ttl=0)) as (server,), dns(server) as (_, at):
        for _ in range(2):
            assert addresses(await ask_udp(at, "a.example")) == ["192.0.2.1"]
        assert server.names() == ["a.example."] * 2


async def test_absence_is_remembered_as_its_soa_says() -> None:
    async with upstreams(absent) as (server,), dns(server) as (_, at):
        for _ in range(2):
            found = await ask_udp(at, "nobody.example")
            assert RCODE[found.header.rcode] == "NXDOMAIN"
            assert [QTYPE[each.rtype] for each in found.auth] == ["SOA"]
        assert server.names() == ["nobody.example."]


async def test_the_cache_is_bounded() -> None:
    async with upstreams(answering("192.0.2.1")) as (server,), dns(server, cache_size=2) as (_, at):
        for name in ("a.example", "b.example", "c.example", "c.example", "a.example"):
            await ask_udp(at, name)
        assert server.names() == ["a.example.", "b.example.", "c.example.", "a.example."]


async def test_the_same_question_is_asked_once() -> None:
    async with upstreams(silent) as (server,), dns(server) as (_, at):
        asking = [asyncio.create_task(ask_udp(at, "slow.example")) for _ in range(20)]
        await until(server.names)
        server.handler = answering("192.0.2.9")
        answers = await asyncio.gather(*asking)
        assert [addresses(each) for each in answers] == [["192.0.2.9"]] * 20
        assert len(server.names()) == 2  # the first was not answered, and repeated


@pytest.mark.parametrize(
    "first", [silent, failing("SERVFAIL"), failing("REFUSED")], ids=["silent", "failing", "refusing"]
)
async def test_the_next_server_is_asked(first: Handler) -> None:
    async with upstreams(first, answering("192.0.2.2")) as (one, two), dns(one, two, cache_ttl=0) as (_, at):
        await finds(at, "a.example", ["192.0.2.2"])
        assert one.names()[0] == "a.example."


async def test_a_server_that_is_dead_comes_last() -> None:
    async with upstreams(answering("192.0.2.1"), answering("192.0.2.2")) as (one, two), dns(one, two) as (_, at):
        await one.stop()
        assert addresses(await ask_udp(at, "a.example")) == ["192.0.2.2"]
        assert addresses(await ask_udp(at, "b.example")) == ["192.0.2.2"]
        assert two.names() == ["a.example.", "b.example."]


async def test_without_an_answer_it_is_servfail_and_soon() -> None:
    async with upstreams(failing("REFUSED")) as (server,), dns(server) as (_, at):
        assert RCODE[(await ask_udp(at, "a.example")).header.rcode] == "REFUSED"  # what they said
        await server.stop()
        assert RCODE[(await ask_udp(at, "b.example")).header.rcode] == "SERVFAIL"
    async with upstreams(silent) as (server,), dns(server) as (_, at):
        assert RCODE[(await ask_udp(at, "c.example")).header.rcode] == "SERVFAIL"
        assert TOTAL_S < 5  # when a client's resolver gives up


async def test_a_cut_answer_is_fetched_over_tcp() -> None:
    ips = [f"192.0.2.{number}" for number in range(1, 200)]

    def handler(record: DNSRecord, tcp: bool) -> bytes:
        if tcp:
            return answering(*ips)(record, tcp) or b""
        reply = record.reply()
        reply.header.tc = 1
        return bytes(reply.pack())

    async with upstreams(handler) as (server,), dns(server) as (_, at):
        short = await ask_udp(at, "big.example")
        assert short.header.tc
        assert 0 < len(short.rr) < len(ips)
        assert addresses(await ask_tcp(at, "big.example")) == ips
        assert [tcp for name, _, tcp in server.asked if name == "big.example."] == [False, True]


async def test_a_server_older_than_edns_is_asked_without() -> None:
    def handler(record: DNSRecord, tcp: bool) -> bytes | None:
        return (failing("FORMERR") if record.ar else answering("192.0.2.1"))(record, tcp)

    async with upstreams(handler) as (server,), dns(server) as (_, at):
        assert addresses(await ask_udp(at, "a.example")) == ["192.0.2.1"]


async def test_answers_that_are_not_to_the_question_are_not_believed() -> None:
    def other_number(record: DNSRecord, tcp: bool) -> bytes:
        made = answering("6.6.6.6")(record, tcp) or b""
        return bytes((made[0] ^ 1,)) + made[1:]

    def other_name(record: DNSRecord, _tcp: bool) -> bytes:
        reply = DNSRecord.question("evil.example").reply()
        reply.header.id = record.header.id
        reply.add_answer(RR("a.example", rdata=A("6.6.6.6"), ttl=60))
        return bytes(reply.pack())

    def broken(record: DNSRecord, tcp: bool) -> bytes:
        return (answering("6.6.6.6")(record, tcp) or b"")[:-3]

    for wrong in (other_number, other_name, broken):
        async with upstreams(wrong, answering("192.0.2.2")) as (one, two), dns(one, two, cache_ttl=0) as (_, at):
            assert addresses(await ask_udp(at, "a.example")) in ([], ["192.0.2.2"]), wrong.__name__
            await finds(at, "a.example", ["192.0.2.2"])


async def test_an_external_name_is_followed() -> None:
    def handler(record: DNSRecord, _tcp: bool) -> bytes:
        reply = record.reply()
        reply.add_answer(RR(record.q.qname, QTYPE.CNAME, rdata=CNAME("edge.example"), ttl=60))
        reply.add_answer(RR("edge.example", rdata=A("192.0.2.5"), ttl=60))
        return bytes(reply.pack())

    async with upstreams(handler) as (server,), dns(server) as (found, at):
        put(found.zone, service("out", external="www.example.com"))
        for _ in range(2):  # from upstream, from memory
            answer = await ask_udp(at, "out.default.svc.cluster.local")
            assert addresses(answer) == ["www.example.com.", "edge.example.", "192.0.2.5"]
            assert str(answer.rr[0].rname) == "out.default.svc.cluster.local."
            assert str(answer.rr[1].rname) == "www.example.com."
        assert server.names() == ["www.example.com."]
        server.handler = absent
        put(found.zone, service("out", external="other.example"))
        answer = await ask_udp(at, "out.default.svc.cluster.local")
        assert RCODE[answer.header.rcode] == "NXDOMAIN"
        assert addresses(answer) == ["other.example."]


async def test_too_many_at_once_are_refused() -> None:
    async with upstreams(silent) as (server,), dns(server, max_concurrent=3) as (_, at):
        waiting = [asyncio.create_task(ask_udp(at, f"{number}.example")) for number in range(3)]
        await until(lambda: len(server.names()) >= 3)
        assert RCODE[(await ask_udp(at, "one-more.example")).header.rcode] == "REFUSED"
        server.handler = answering("192.0.2.1")
        assert [addresses(each) for each in await asyncio.gather(*waiting)] == [["192.0.2.1"]] * 3


async def test_its_own_address_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "raykube"):
        async with dns(forward=["10.96.0.10"], cluster_dns=["10.96.0.10"]) as (found, at):
            assert RCODE[(await ask_udp(at, "a.example")).header.rcode] == "SERVFAIL"
            assert "no upstream server" in str(found.status()["detail"])
    assert "10.96.0.10:53 would forward to itself" in caplog.text


async def test_a_loop_over_another_server_is_found_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """An upstream server that asks us: what a local resolver does whose own server is the cluster's DNS."""
    address: list[tuple[str, int]] = []

    class Back(Upstream):
        def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
            task = asyncio.get_running_loop().create_task(self._pass_on(data, client))
            tasks.add(task)

        async def _pass_on(self, data: bytes, client: tuple[str, int]) -> None:
            answer = await send_udp(address[0], data)
            if self._transport is not None:
                self._transport.sendto(answer, client)

    tasks: set[asyncio.Task[None]] = set()
    back = await Back(silent).start()
    try:
        with caplog.at_level(logging.ERROR, "raykube"):
            async with upstreams(answering("192.0.2.1")) as (good,), dns(back, good) as (found, at):
                address.append(at)
                found.forwarder.probe_now()
                await until(lambda: found.forwarder.upstreams.looping)
                assert "left out: it asks this cluster's DNS" in str(found.status()["detail"])
                assert addresses(await ask_udp(at, "a.example")) == ["192.0.2.1"]
        assert f"the upstream server {back.text} asks this cluster's DNS" in caplog.text
    finally:
        await back.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_resolv_conf_is_read_again_when_it_changes(tmp_path: Path) -> None:
    conf = tmp_path / "resolv.conf"
    conf.write_text("search x\n# nameserver 127.0.0.250\nnameserver 127.0.0.251 \nnameserver nonsense\noptions a\n")
    async with dns(resolv_conf=conf) as (found, _):
        assert found.forwarder.upstreams.addresses == [("127.0.0.251", 53)]
        conf.write_text("nameserver fd00::7\n")
        found.forwarder.look(at_once=True)
        assert found.forwarder.upstreams.addresses == [("fd00::7", 53)]
        conf.unlink()
        found.forwarder.look(at_once=True)
        assert found.forwarder.upstreams.addresses == [("fd00::7", 53)]  # what was known stays


async def test_any_type_is_passed_on() -> None:
    def handler(record: DNSRecord, _tcp: bool) -> bytes:
        reply = record.reply()
        reply.add_answer(RR(record.q.qname, record.q.qtype, rdata=TXT("v=spf1 -all"), ttl=60))
        return bytes(reply.pack())

    async with upstreams(handler) as (server,), dns(server) as (_, at):
        assert addresses(await ask_udp(at, "example.com", "TXT")) == ['"v=spf1 -all"']


async def test_rubbish_does_no_harm() -> None:
    async with upstreams(answering("192.0.2.1")) as (server,), dns(server) as (_, at):
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=at)
        for length in range(40):
            transport.sendto(bytes(range(length)))
        transport.close()
        reader, writer = await asyncio.open_connection(*at)
        writer.write(b"\x00\x05hello\xff\xff")
        writer.close()
        assert addresses(await ask_udp(at, "a.example")) == ["192.0.2.1"]
        assert await send_udp(at, query("b.example"))
        del reader


async def test_a_client_that_ends_its_side_is_answered_and_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for the end of the answers, which came with the idle time only."""
    monkeypatch.setattr(server, "TCP_IDLE_S", 3600.0)
    async with upstreams(answering("192.0.2.9")) as (one,), dns(one) as (_, at):
        for asked in (["www.example.com"], ["www.example.com", "www.example.org"], []):
            messages = [query(name) for name in asked]
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection(*at)
                writer.write(b"".join(len(each).to_bytes(2, "big") + each for each in messages))
                writer.write_eof()
                answers = await reader.read()
                writer.close()
            assert answers.count(b"\xc0\x00\x02\x09") == len(asked)
