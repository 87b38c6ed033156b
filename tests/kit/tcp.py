"""Small TCP and UDP servers and clients for proxy tests, on free ports of any 127.0.0.0/8 address."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Echo:
    """Answers each connection with `name\\n`, then echoes; counts connections; ends them with its own end."""

    def __init__(self, name: str = "echo", host: str = "127.0.0.1") -> None:
        self.name = name
        self.host = host
        self.port = 0
        self.accepted = 0
        self.peers: list[str] = []
        self.ended: list[bytes] = []  # what clients that half-closed had sent
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self, port: int = 0) -> "Echo":
        self._server = await asyncio.start_server(self._serve, self.host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.peers.append(writer.get_extra_info("peername")[0])
        self._writers.add(writer)
        got = b""
        try:
            writer.write(self.name.encode() + b"\n")
            while data := await reader.read(65536):
                got += data if len(got) < 1_000_000 else b""
                writer.write(data)
                await writer.drain()
            self.ended.append(got)
            writer.write(b"bye")
            writer.close()
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)

    @property
    def open(self) -> int:
        return len(self._writers)

    async def kill(self) -> None:
        """Stops listening and resets every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            found = writer.get_extra_info("socket")
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await asyncio.sleep(0)

    async def stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            await asyncio.sleep(0)


@asynccontextmanager
async def echo(name: str = "echo", host: str = "127.0.0.1") -> AsyncIterator[Echo]:
    server = await Echo(name, host).start()
    try:
        yield server
    finally:
        await server.kill()


async def connect(
    address: str, local: str = "", timeout_s: float = 10
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A client connection, from the address `local` when given."""
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(timeout_s):
        return await asyncio.open_connection(host, int(port), local_addr=(local, 0) if local else None)


async def greeting(address: str, local: str = "", timeout_s: float = 10) -> str:
    """Whom a fresh connection to `address` reaches; "" when it is refused, reset or ended."""
    try:
        reader, writer = await connect(address, local, timeout_s)
    except ConnectionError:
        return ""
    try:
        async with asyncio.timeout(timeout_s):
            return (await reader.readline()).decode().strip()
    except ConnectionError:
        return ""
    finally:
        writer.transport.abort()


async def eventually(condition: Callable[[], object], what: str = "", timeout_s: float = 10) -> None:
    """Returns once `condition()` is true; fails after `timeout_s`."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"never happened: {what or condition}"
        await asyncio.sleep(0.01)


class UdpEcho(asyncio.DatagramProtocol):
    """Answers each datagram with `name:` and the datagram."""

    def __init__(self, name: str, host: str = "127.0.0.1") -> None:
        self.name = name
        self.host = host
        self.port = 0
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> "UdpEcho":
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(self.host, 0))
        self.port = self._transport.get_extra_info("sockname")[1]
        return self

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(self.name.encode() + b":" + data, address)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class UdpClient(asyncio.DatagramProtocol):
    """Sends datagrams and hands over the answers."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def to(cls, host: str, port: int, local: str = "127.0.0.1") -> "UdpClient":
        client = cls()
        loop = asyncio.get_running_loop()
        client._transport, _ = await loop.create_datagram_endpoint(
            lambda: client, local_addr=(local, 0), remote_addr=(host, port)
        )
        return client

    def datagram_received(self, data: bytes, _address: tuple[str, int]) -> None:
        self._answers.put_nowait(data)

    async def ask(self, data: bytes, timeout_s: float = 5) -> bytes:
        """The answer to `data`; b"" when none comes (UDP may lose any: asked again each half second)."""
        assert self._transport is not None
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    self._transport.sendto(data)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            return await self._answers.get()
        return b""

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
