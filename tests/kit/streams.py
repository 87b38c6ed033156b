"""A SPDY client for tests: exec, attach and port-forward as kubectl of old speaks them, against any server's URL."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import TracebackType

import orjson

from raykube.streaming.core import channels, http1, outcome, pairs
from raykube.streaming.core.channels import Channel
from raykube.streaming.link import Link, Stream
from raykube.streaming.wire import dial
from tests.kit.waiting import until


@asynccontextmanager
async def connected(url: str, protocol: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Link]:
    answer = await dial(url, "POST", http1.spdy_headers(protocol), context)
    assert answer.wire is not None, (answer.head.status, answer.body)
    link = Link(answer.wire, server=False)
    running = asyncio.ensure_future(link.run())
    try:
        yield link
    finally:
        link.close()
        await running


class Session:
    """An exec or attach: what it printed collects in `stdout` and `stderr`."""

    def __init__(
        self, url: str, streams: Sequence[Channel], context: ssl.SSLContext | None = None, reading: bool = True
    ) -> None:
        self._connection = connected(url, channels.V4, context)
        self._wanted = streams
        self._reading = reading
        self.streams: dict[Channel, Stream] = {}
        self.outputs: dict[Channel, bytearray] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Session":
        self.link = await self._connection.__aenter__()
        for channel in self._wanted:
            self.streams[channel] = await self.link.open({"streamtype": channel.name.lower()})
        for channel in (Channel.STDOUT, Channel.STDERR, Channel.ERROR):
            if channel in self.streams:
                self.outputs[channel] = bytearray()
                if self._reading:
                    self._tasks.append(asyncio.ensure_future(self._read(channel)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._connection.__aexit__(kind, error, trace)

    async def _read(self, channel: Channel) -> None:
        while data := await self.streams[channel].read():
            self.outputs[channel] += data

    @property
    def stdout(self) -> str:
        return self.outputs[Channel.STDOUT].decode()

    @property
    def stderr(self) -> str:
        return self.outputs[Channel.STDERR].decode()

    async def type(self, text: str | bytes) -> None:
        await self.streams[Channel.STDIN].write(text.encode() if isinstance(text, str) else text)

    async def insist(self, line: str, text: str, timeout_s: float = 20) -> None:
        """Types a line again and again until stdout has this text: streams come in no order among each other."""
        async with asyncio.timeout(timeout_s):
            while text not in self.stdout:
                await self.type(line)
                await asyncio.sleep(0.05)

    async def end_input(self) -> None:
        await self.streams[Channel.STDIN].end()

    async def sees(self, text: str, timeout_s: float = 20) -> None:
        """Returns once stdout has this text."""
        await until(lambda: text in self.stdout, timeout_s, f"{text!r} in the output")

    async def status(self, timeout_s: float = 30) -> dict[str, object]:
        """The Status at the end."""
        await asyncio.wait_for(asyncio.gather(*self._tasks), timeout_s)
        found: dict[str, object] = orjson.loads(bytes(self.outputs[Channel.ERROR]))
        return found

    async def code(self) -> int | None:
        return outcome.exit_code(await self.status())


class Forwarder:
    """Connections through one port-forward."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._requests = 0

    async def connect(self, port: int) -> tuple[Stream, Stream]:
        """The data and error streams of a new connection."""
        self._requests += 1
        error = await self._link.open(pairs.request_headers("error", port, self._requests))
        data = await self._link.open(pairs.request_headers("data", port, self._requests))
        await error.end()
        return data, error


async def read_all(stream: Stream) -> bytes:
    found = b""
    while data := await stream.read():
        found += data
    return found
