"""A client of DNS servers, with dnslib: over UDP and TCP, and an upstream server to forward to."""

import asyncio
import socket
from collections.abc import Callable

from dnslib import QTYPE, DNSRecord

from tests.dns.objects import query

Handler = Callable[[DNSRecord, bool], bytes | None]


async def ask_udp(
    address: tuple[str, int], name: str, kind: str = "A", *, edns: int = 0, timeout_s: float = 30
) -> DNSRecord:
    """One query over UDP; the answer must be to it."""
    return DNSRecord.parse(await send_udp(address, query(name, kind, edns=edns), timeout_s=timeout_s))


async def send_udp(address: tuple[str, int], data: bytes, *, timeout_s: float = 30) -> bytes:
    loop = asyncio.get_running_loop()
    found = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    with found:
        found.setblocking(False)
        found.connect(address)
        await loop.sock_sendall(found, data)
        async with asyncio.timeout(timeout_s):
            return await loop.sock_recv(found, 65535)


async def send_tcp(address: tuple[str, int], *messages: bytes, timeout_s: float = 30) -> list[bytes]:
    """All messages at once over one connection; the answers in the order they come."""
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection(*address)
        try:
            writer.write(b"".join(len(each).to_bytes(2, "big") + each for each in messages))
            return [await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")) for _ in messages]
        finally:
            writer.close()


async def ask_tcp(address: tuple[str, int], name: str, kind: str = "A") -> DNSRecord:
    return DNSRecord.parse((await send_tcp(address, query(name, kind)))[0])


def addresses(record: DNSRecord) -> list[str]:
    """What the answer section says, without names and TTLs."""
    return [str(each.rdata) for each in record.rr]


class Upstream(asyncio.DatagramProtocol):
    """A DNS server of the test: `handler(query, tcp)` gives the answer's bytes, or None for silence."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.asked: list[tuple[str, str, bool]] = []  # name, type, over TCP
        self.address = ("", 0)
        self._transport: asyncio.DatagramTransport | None = None
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> "Upstream":
        self._server = await asyncio.start_server(self._serve, host, port)
        port = self._server.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self.address = (host, port)
        return self

    @property
    def text(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def names(self) -> list[str]:
        """What was asked, but for the probes for loops."""
        return [name for name, _, _ in self.asked if not name.endswith(".loop-probe.raykube.")]

    def _answer(self, data: bytes, tcp: bool) -> bytes | None:
        record = DNSRecord.parse(data)
        self.asked.append((str(record.q.qname), QTYPE[record.q.qtype], tcp))
        return self.handler(record, tcp)

    def datagram_received(self, data: bytes, client: tuple[str, int]) -> None:
        answer = self._answer(data, False)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, client)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            answer = self._answer(data, True)
            if answer is not None:
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def stop(self) -> None:
        if self._transport is not None:
            self._transport.close()
        if self._server is not None:
            self._server.close()
