"""Traffic through the user-space proxy, over real sockets."""

import asyncio
import errno
import socket
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from raykube.kubeproxy.core.reach import NodeAddresses
from raykube.kubeproxy.frames import FramedSide
from raykube.kubeproxy.host_addresses import chosen, local_addresses
from tests.kit import pki
from tests.kit.tcp import UdpClient, UdpEcho, connect, echo, eventually, greeting
from tests.kubeproxy.objects import endpoint, endpoint_slice, node
from tests.kubeproxy.world import free_port, serving, slices_of, world


async def test_connections_are_spread_over_the_endpoints() -> None:
    async with echo("a") as a, echo("b") as b, echo("c") as c, world() as here:
        port = free_port("127.0.0.1")
        await here.apply(serving(port), *slices_of(a, b, c))
        names = Counter([await greeting(f"127.0.0.1:{port}") for _ in range(30)])
        assert names == {"a": 10, "b": 10, "c": 10}


async def test_ends_and_bytes_pass_both_ways() -> None:
    async with echo() as server, world() as here:
        port = free_port("127.0.0.1")
        await here.apply(serving(port), *slices_of(server))
        reader, writer = await connect(f"127.0.0.1:{port}")
        assert await reader.readline() == b"echo\n"
        blob = bytes(range(256)) * 20_000
        received = asyncio.create_task(reader.read(-1))
        writer.write(blob)
        writer.write_eof()
        async with asyncio.timeout(30):
            assert await received == blob + b"bye"
        writer.close()
        await eventually(lambda: here.metrics.connections_open == 0)


async def test_an_endpoint_that_refuses_costs_no_connection() -> None:
    async with echo("a") as a, echo("b") as b, world() as here:
        port = free_port("127.0.0.1")
        await here.apply(serving(port), *slices_of(a, b))
        await a.kill()  # its EndpointSlice still names it
        assert [await greeting(f"127.0.0.1:{port}") for _ in range(10)] == ["b"] * 10
        assert here.metrics.connect_failures >= 1


async def test_a_removed_endpoint_gets_nothing_new_and_keeps_what_it_has() -> None:
    async with echo("a") as a, echo("b") as b, world() as here:
        port = free_port("127.0.0.1")
        first, second = slices_of(a, b)
        await here.apply(serving(port), first, second)
        kept = [await connect(f"127.0.0.1:{port}") for _ in range(4)]
        names = Counter([(await reader.readline()) for reader, _ in kept])
        assert names == {b"a\n": 2, b"b\n": 2}
        await here.remove(first)
        assert [await greeting(f"127.0.0.1:{port}") for _ in range(6)] == ["b"] * 6
        for reader, writer in kept:
            writer.write(b"x\n")
            assert await reader.readline() == b"x\n"
            writer.close()


async def test_no_endpoints_is_refused_at_once_and_comes_back() -> None:
    async with echo() as server, world() as here:
        port = free_port("127.0.0.1")
        (only,) = slices_of(server)
        await here.apply(serving(port), only)
        assert await greeting(f"127.0.0.1:{port}") == "echo"
        await here.remove(only)
        with pytest.raises(ConnectionRefusedError):
            await connect(f"127.0.0.1:{port}", timeout_s=1)
        await here.apply(only)
        assert await greeting(f"127.0.0.1:{port}") == "echo"


async def test_a_removed_service_closes_its_addresses_and_a_changed_port_moves() -> None:
    async with echo() as server, world() as here:
        port, other = free_port("127.0.0.1"), free_port("127.0.0.1")
        await here.apply(serving(port), *slices_of(server))
        reader, writer = await connect(f"127.0.0.1:{port}")
        await reader.readline()
        await here.apply(serving(other))
        assert await greeting(f"127.0.0.1:{other}") == "echo"
        with pytest.raises(ConnectionRefusedError):
            await connect(f"127.0.0.1:{port}")
        await here.remove(serving(other))
        with pytest.raises(ConnectionRefusedError):
            await connect(f"127.0.0.1:{other}")
        writer.write(b"x\n")  # what was open stays open
        assert await reader.readline() == b"x\n"
        writer.close()


async def test_node_ports_on_each_address_of_the_node() -> None:
    async with echo() as server, world(nodeports=("127.0.0.1", "127.0.0.2")) as here:
        number = free_port("127.0.0.1")
        ports = [{"port": free_port("127.0.0.3"), "nodePort": number, "protocol": "TCP"}]
        await here.apply(serving(0, "127.0.0.3", type="NodePort", ports=ports), *slices_of(server))
        assert [await greeting(f"{ip}:{number}") for ip in ("127.0.0.1", "127.0.0.2")] == ["echo", "echo"]
        assert await greeting(f"127.0.0.3:{ports[0]['port']}") == "echo"


async def test_client_ip_affinity() -> None:
    async with echo("a") as a, echo("b") as b, echo("c") as c, world() as here:
        port = free_port("127.0.0.1")
        sticky = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}
        servers = {server.name: server for server in (a, b, c)}
        await here.apply(serving(port, **sticky), *slices_of(a, b, c))
        clients = [f"127.0.7.{n}" for n in range(1, 13)]
        first = {client: await greeting(f"127.0.0.1:{port}", client) for client in clients}
        assert len(set(first.values())) > 1
        for _ in range(3):
            for client in clients:
                assert await greeting(f"127.0.0.1:{port}", client) == first[client]
        await servers[first[clients[0]]].kill()  # then the client moves, once
        moved = await greeting(f"127.0.0.1:{port}", clients[0])
        assert moved not in ("", first[clients[0]])
        assert await greeting(f"127.0.0.1:{port}", clients[0]) == moved


async def test_proxies_of_one_computer_share_an_address() -> None:
    async with echo() as server, world("m1", shared=True) as one, world("m2", shared=True) as two:
        port = free_port("127.0.0.1")
        for each in (one, two):
            await each.apply(serving(port), *slices_of(server))
            assert each.failures == []
        assert [await greeting(f"127.0.0.1:{port}") for _ in range(20)] == ["echo"] * 20
        assert one.metrics.connections + two.metrics.connections == 20
        await one.proxier.stop()  # a machine is lost: the address still answers
        assert [await greeting(f"127.0.0.1:{port}") for _ in range(10)] == ["echo"] * 10


async def test_a_port_in_use_is_reported_once_and_served_when_it_is_free() -> None:
    async with echo() as server, world() as here:
        holder = socket.socket()
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        (only,) = slices_of(server)
        await here.apply(serving(port), only)
        await here.remove(only)
        await here.apply(only)
        (rule, frontend, advice), *others = here.failures
        assert rule.service == ("n", "web")
        assert frontend == f"127.0.0.1:{port}/TCP"
        assert "is in use; find by whom" in advice
        assert len(others) <= 1  # again only because it had no endpoints in between
        holder.close()
        retry_at = here.proxier.next_retry()
        assert retry_at is not None
        here.proxier.unbound[next(iter(here.proxier.unbound))].retry_at = 0
        await here.proxier.retry()
        assert await greeting(f"127.0.0.1:{port}") == "echo"
        assert here.proxier.next_retry() is None


@pytest.mark.parametrize(
    ("code", "advice"),
    [(errno.EACCES, "net.ipv4.ip_unprivileged_port_start=80"), (errno.EADDRNOTAVAIL, "127.0.0.0/8")],
)
async def test_what_cannot_be_bound_says_what_to_do(monkeypatch: pytest.MonkeyPatch, code: int, advice: str) -> None:
    def refuse(_self: socket.socket, _address: Any) -> None:
        raise OSError(code, "refused")  # what the kernel answers an ordinary user; tests may run as root

    async with echo() as server, world() as here:
        monkeypatch.setattr(socket.socket, "bind", refuse)
        await here.apply(serving(80), *slices_of(server))
        ((_, frontend, text),) = here.failures
        assert frontend == "127.0.0.1:80/TCP"
        assert advice in text
        assert "\n" not in text


async def test_an_external_address_of_another_node_is_nobodys_fault() -> None:
    async with echo() as server, world() as here:
        port = free_port("127.0.0.1")
        await here.apply(serving(port, externalIPs=["192.0.2.1"]), *slices_of(server))
        assert here.failures == []
        assert await greeting(f"127.0.0.1:{port}") == "echo"


# UDP


def udp_objects(port: int, *servers: UdpEcho) -> list[dict[str, Any]]:
    ports = [{"name": "dns", "port": port, "protocol": "UDP"}]
    slices = [
        endpoint_slice(endpoint(s.host), port={"dns": s.port}, protocol="UDP", name=f"udp-{s.port}") for s in servers
    ]
    return [serving(port, ports=ports), *slices]


async def test_udp_answers_find_back_and_flows_stay_with_their_endpoint() -> None:
    a, b = await UdpEcho("a").start(), await UdpEcho("b").start()
    async with world() as here:
        port = free_port("127.0.0.1", socket.SOCK_DGRAM)
        await here.apply(*udp_objects(port, a, b))
        clients = [await UdpClient.to("127.0.0.1", port) for _ in range(6)]
        first = [(await client.ask(b"1"))[:1] for client in clients]
        assert Counter(first) == {b"a": 3, b"b": 3}
        assert [(await client.ask(b"2")) for client in clients] == [name + b":2" for name in first]
        for client in clients:
            client.close()
    a.close()
    b.close()


async def test_udp_leaves_an_endpoint_that_is_gone_or_dead() -> None:
    a, b = await UdpEcho("a").start(), await UdpEcho("b").start()
    async with world() as here:
        port = free_port("127.0.0.1", socket.SOCK_DGRAM)
        service, slice_a, slice_b = udp_objects(port, a, b)
        await here.apply(service, slice_a)
        client = await UdpClient.to("127.0.0.1", port)
        assert await client.ask(b"1") == b"a:1"
        await here.apply(slice_b)
        assert await client.ask(b"2") == b"a:2"
        await here.remove(slice_a)  # gone: the flow moves at once
        assert await client.ask(b"3") == b"b:3"
        await here.apply(slice_a)
        assert await client.ask(b"4") == b"b:4"
        b.close()  # dead: the next datagrams find the other
        assert await client.ask(b"5") == b"a:5"
        client.close()
    a.close()


async def test_silent_udp_flows_are_forgotten() -> None:
    a = await UdpEcho("a").start()
    async with world(udp_idle_s=0.1) as here:
        port = free_port("127.0.0.1", socket.SOCK_DGRAM)
        await here.apply(*udp_objects(port, a))
        client = await UdpClient.to("127.0.0.1", port)
        assert await client.ask(b"1") == b"a:1"
        await eventually(lambda: here.metrics.connections_open == 0)
        assert await client.ask(b"2") == b"a:2"
        client.close()
    a.close()


# Other hosts


async def test_endpoints_of_another_host_are_reached_through_its_relay() -> None:
    async with echo("far") as far, world("m1", mode="always") as one, world("m2", mode="always") as two:
        await two.relay.start("127.0.0.2", 0)
        one.nodes["m2"] = NodeAddresses.of(node("m2", "127.0.0.2", two.relay.address))
        port = free_port("127.0.0.1")
        objects = [serving(port), *slices_of(far, node="m2")]
        await one.apply(*objects)
        assert await greeting(f"127.0.0.1:{port}") == ""  # the relay's own slices do not name it: refused
        two.table.set_slice(("n", "s"), objects[1])
        one.table.set_service(("n", "web"), None)
        await one.proxier.sync()
        await one.apply(objects[0])
        reader, writer = await connect(f"127.0.0.1:{port}")
        assert await reader.readline() == b"far\n"
        blob = bytes(range(256)) * 20_000
        received = asyncio.create_task(reader.read(-1))
        writer.write(blob)
        writer.write_eof()  # passes through TLS as a frame
        async with asyncio.timeout(30):
            assert await received == blob + b"bye"
        writer.close()
        await eventually(lambda: far.open == 0)

        reader, writer = await connect(f"127.0.0.1:{port}")
        await reader.readline()
        writer.transport.abort()
        await eventually(lambda: far.open == 0, "the endpoint sees the client go")


async def test_a_relay_that_does_not_answer_is_passed_over() -> None:
    async with echo("near") as near, echo("far") as far, world("m1", mode="always") as here:
        here.nodes["m2"] = NodeAddresses.of(node("m2", "127.0.0.2", f"127.0.0.2:{free_port('127.0.0.2')}"))
        port = free_port("127.0.0.1")
        await here.apply(serving(port), *slices_of(near), *slices_of(far, node="m2"), *slices_of(node="m3"))
        assert [await greeting(f"127.0.0.1:{port}") for _ in range(4)] == ["near"] * 4


@pytest.mark.parametrize("relay", ["nowhere", ".:10266", "127.0.0.2:99999999"])
async def test_a_relay_that_is_no_address_is_passed_over(relay: str) -> None:
    """Clients of endpoints there hung for ever, each with its connection."""
    async with echo("near") as near, echo("far") as far, world("m1", mode="always") as here:
        here.nodes["m2"] = NodeAddresses.of(node("m2", "127.0.0.2", relay))
        port = free_port("127.0.0.1")
        await here.apply(serving(port), *slices_of(near), *slices_of(far, node="m2"))
        async with asyncio.timeout(10):
            assert [await greeting(f"127.0.0.1:{port}") for _ in range(4)] == ["near"] * 4


@pytest.mark.parametrize("who", ["system:node:m1", "nobody", "stranger"])
async def test_only_kube_proxies_may_use_a_relay(who: str) -> None:
    async with echo("far") as far, world("m2", mode="always") as two:
        await two.relay.start("127.0.0.2", 0)
        two.table.set_slice(("n", "s"), slices_of(far, node="m2")[0])
        context = pki.client_context() if who == "nobody" else pki.client_context(who, stranger=who == "stranger")
        host, _, port = two.relay.address.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(f"{far.address}\n".encode())
            async with asyncio.timeout(5):
                answer = await reader.readline()
        except OSError:
            answer = b""
        assert answer in (b"", b"no only kube-proxies may use a relay\n")
        assert far.accepted == 0


async def test_a_relay_opens_no_other_ports() -> None:
    async with echo("far") as far, echo("private") as private, world("m2", mode="always") as two:
        await two.relay.start("127.0.0.2", 0)
        two.table.set_slice(("n", "s"), slices_of(far, node="m2")[0])
        context = pki.client_context("system:kube-proxy")
        host, _, port = two.relay.address.rpartition(":")
        for line in (private.address, "127.0.0.1:x", "", f"{far.address}x", "a" * 1000):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(f"{line}\n".encode())
            async with asyncio.timeout(5):
                with suppress(ConnectionError):
                    assert not (await reader.read(-1)).startswith(b"ok")
            writer.close()
        assert private.accepted == far.accepted == 0


async def test_a_server_that_is_no_kube_proxy_gets_no_traffic() -> None:
    async with echo("far") as far, world("m1", mode="always") as one, world("m2", user="system:node:m2") as two:
        await two.relay.start("127.0.0.2", 0)
        two.table.set_slice(("n", "s"), slices_of(far, node="m2")[0])
        one.nodes["m2"] = NodeAddresses.of(node("m2", "127.0.0.2", two.relay.address))
        port = free_port("127.0.0.1")
        await one.apply(serving(port), *slices_of(far, node="m2"))
        assert await greeting(f"127.0.0.1:{port}") == ""
        assert far.accepted == 0


class Collector(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += bytes(data)

    def is_closing(self) -> bool:
        return self.aborted

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None:
        self.aborted = True


async def test_frames_whole_and_byte_by_byte() -> None:
    def written(*parts: bytes) -> bytes:
        side = FramedSide()
        transport = Collector()
        side.connection_made(transport)
        side.send_line("1.2.3.4:5")
        for part in parts:
            side.write(part)
        side.write_eof()
        return transport.data

    parts = (b"a", b"bc" * 1000, bytes(3_000_000))
    stream = written(*parts)
    for size in (1, 7, len(stream)) if len(stream) < 10_000 else (4093, len(stream)):
        side, other = FramedSide(), FramedSide()
        ends = Collector(), Collector()
        side.connection_made(ends[0])
        other.connection_made(ends[1])
        side.join(other)
        for start in range(0, len(stream), size):
            side.data_received(stream[start : start + size])
        assert side.line.result() == "1.2.3.4:5"
        assert ends[1].data == written(*parts).partition(b"\n")[2]
    bad = FramedSide()
    end = Collector()
    bad.connection_made(end)
    bad.data_received(b"line\n\xff\xff\xff\xff")
    assert end.aborted


def test_the_addresses_of_this_host(tmp_path: Path) -> None:
    assert "127.0.0.1" in local_addresses()
    assert local_addresses(tmp_path) == []
    local = ["127.0.0.1", "10.0.0.5", "10.0.0.6", "fd00::1"]
    assert chosen([], ("10.0.0.5",), local) == ["10.0.0.5"]
    assert chosen(["10.0.0.0/24", "127.0.0.9"], ("10.0.0.5",), local) == ["10.0.0.5", "10.0.0.6", "127.0.0.9"]
    assert chosen(["primary", "fd00::/8"], (), local) == ["fd00::1"]
