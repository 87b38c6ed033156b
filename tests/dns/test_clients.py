"""Who is answered: networks that the server was told, and no client so much that others wait."""

import asyncio
import socket

import pytest
from dnslib import RCODE, DNSRecord

from raykube.dns.config import PRIVATE
from raykube.dns.core.clients import Clients
from tests.dns.asking import addresses
from tests.dns.objects import query
from tests.dns.test_forward import answering, dns, silent, upstreams


@pytest.mark.parametrize(
    ("client", "allowed"),
    [
        ("10.244.1.2", True),
        ("127.5.1.2", True),
        ("192.168.1.1", True),
        ("fd00::1", True),
        ("fe80::1%eth0", True),
        ("::ffff:10.0.0.1", True),
        ("203.0.113.7", False),
        ("::ffff:203.0.113.7", False),
        ("2001:db8::1", False),
        ("172.32.0.1", False),
    ],
)
def test_private_networks(client: str, allowed: bool) -> None:
    clients = Clients(PRIVATE)
    assert [clients.allows(client) for _ in range(2)] == [allowed] * 2


async def ask_from(source: str, at: tuple[str, int], *, tcp: bool) -> DNSRecord:
    data = query("a.example", "A")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as found:
        found.bind((source, 0))
        found.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(30):
            await loop.sock_connect(found, at)
            await loop.sock_sendall(found, len(data).to_bytes(2, "big") + data if tcp else data)
            return DNSRecord.parse((await loop.sock_recv(found, 4096))[2 if tcp else 0 :])


@pytest.mark.parametrize("tcp", [False, True])
async def test_clients_of_other_networks_are_refused(tcp: bool) -> None:
    async with (
        upstreams(answering("192.0.2.1")) as (server,),
        dns(server, allow_networks=["10.0.0.0/8", "127.7.0.0/16"]) as (_, at),
    ):
        assert RCODE[(await ask_from("127.8.0.1", at, tcp=tcp)).header.rcode] == "REFUSED"
        assert not server.names()
        for source in ("127.7.0.1", at[0]):
            assert addresses(await ask_from(source, at, tcp=tcp)) == ["192.0.2.1"]


async def test_one_client_does_not_take_all_waiting_places() -> None:
    async with upstreams(silent) as (server,), dns(server, max_concurrent_per_client=2) as (found, _):
        got: dict[str, list[bytes]] = {}
        for number in range(4):
            for client in ("10.0.0.1", "10.0.0.2", "127.0.0.1"):
                data = query(f"n{number}.{client}.example", "A")
                found._answers.handle(data, client, False, got.setdefault(client, []).append)
        # Behind a loopback address a proxy may be, for any number of clients.
        counts = {client: len(answers) for client, answers in got.items()}
        assert counts == {"10.0.0.1": 2, "10.0.0.2": 2, "127.0.0.1": 0}
        codes = {RCODE[DNSRecord.parse(answer).header.rcode] for answers in got.values() for answer in answers}
        assert codes == {"REFUSED"}
        await found._answers.stop()
        assert not found._answers._waiting_of
