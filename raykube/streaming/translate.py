"""WebSockets translated into SPDY for a runtime: channels of exec, attach and port-forward, and the tunnel.

Runtimes speak SPDY/3.1 with v4 of the stream protocols, all of them; WebSocket v5 is what kubectl speaks.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from aiohttp import WSCloseCode, WSMsgType, web

from raykube.streaming.core import channels, pairs
from raykube.streaming.core.channels import Channel
from raykube.streaming.link import Link, Stream
from raykube.streaming.splice import Idle, first
from raykube.streaming.wire import LINGER_S, Wire, hung_up

MESSAGE_BYTES_MAX = 32 * 1024 * 1024


def offered(request: web.BaseRequest) -> list[str]:
    """The protocols that a WebSocket request offers, best first."""
    texts = request.headers.getall("Sec-WebSocket-Protocol", [])
    return [name.strip() for text in texts for name in text.split(",") if name.strip()]


def is_websocket(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


class Socket:
    """A WebSocket that speaks one of the protocols of `channels`."""

    def __init__(self, protocol: str) -> None:
        self.protocol = protocol
        self.response = web.WebSocketResponse(
            protocols=(protocol,), max_msg_size=MESSAGE_BYTES_MAX, compress=False, timeout=LINGER_S
        )
        self._request: web.BaseRequest | None = None

    async def accept(self, request: web.BaseRequest) -> None:
        await self.response.prepare(request)
        self._request = request

    def hung_up(self) -> bool:
        return hung_up(self._request.transport if self._request is not None else None)

    async def send(self, channel: int, data: bytes) -> None:
        message = channels.encode(self.protocol, channel, data)
        if self.protocol == channels.V4_BASE64:
            await self.response.send_str(message.decode())
        else:
            await self.response.send_bytes(message)

    async def raw(self) -> AsyncIterator[bytes]:
        """The messages' contents, until the client closes."""
        async for message in self.response:
            if message.type is WSMsgType.BINARY:
                yield message.data
            elif message.type is WSMsgType.TEXT:
                yield message.data.encode()

    async def messages(self) -> AsyncIterator[channels.Message | channels.Closed]:
        """Raises ChannelError for what makes no sense."""
        async for data in self.raw():
            yield channels.decode(self.protocol, data)

    async def close(self, clean: bool = True) -> None:
        await self.response.close(code=WSCloseCode.OK if clean else WSCloseCode.INTERNAL_ERROR)


async def _upwards(socket: Socket, streams: dict[int, Stream], idle: Idle) -> None:
    """From the client to the runtime, whose streams may take no more before its last output has come."""
    deaf: set[int] = set()
    async for message in socket.messages():
        idle.touch()
        stream = streams.get(message.channel)
        if stream is None or message.channel in deaf:
            continue
        try:
            if isinstance(message, channels.Closed):
                await stream.end()
            elif message.data:
                await stream.write(message.data, socket.hung_up)
        except ConnectionError:
            if socket.hung_up():
                raise
            deaf.add(message.channel)


async def _downwards(socket: Socket, channel: int, stream: Stream, idle: Idle) -> None:
    """From the runtime to the client, until the runtime ends the stream."""
    while data := await stream.read():
        idle.touch()
        await socket.send(channel, data)


async def _run(socket: Socket, link: Link, streams: dict[int, Stream], outputs: Sequence[int], idle: Idle) -> bool:
    """Copies until the runtime has ended every output or the client is gone; whether it was the runtime."""
    spawn = asyncio.get_running_loop().create_task

    async def down() -> None:
        await asyncio.gather(*(_downwards(socket, channel, streams[channel], idle) for channel in outputs))

    downwards = spawn(down())
    try:
        await first(downwards, spawn(_upwards(socket, streams, idle)), spawn(idle.watch()))
    except channels.ChannelError:
        return False
    return downwards.done() and not downwards.cancelled() and downwards.exception() is None


async def remote_command(
    request: web.BaseRequest, socket: Socket, wire: Wire, wanted: Sequence[Channel], idle_s: float | None
) -> web.StreamResponse:
    """Exec or attach: `wire` is a runtime's connection that was upgraded to SPDY with v4."""
    link = Link(wire, server=False)
    running = asyncio.get_running_loop().create_task(link.run())
    try:
        streams: dict[int, Stream] = {}
        for channel in wanted:
            streams[channel] = await link.open({"streamtype": channel.name.lower()})
        await socket.accept(request)
        outputs = [channel for channel in wanted if channel in (Channel.STDOUT, Channel.STDERR, Channel.ERROR)]
        # An empty message tells the client that the session is there.
        await socket.send(min(outputs), b"")
        clean = await _run(socket, link, streams, outputs, Idle(idle_s))
        await socket.close(clean)
    except OSError:
        pass  # one side is gone: the other sees its connection end
    finally:
        link.close()
        await running
    return socket.response


async def port_forward(
    request: web.BaseRequest, socket: Socket, wire: Wire, ports: Sequence[int], idle_s: float | None
) -> web.StreamResponse:
    """Port-forward by channels: one connection to each port."""
    link = Link(wire, server=False)
    running = asyncio.get_running_loop().create_task(link.run())
    try:
        streams: dict[int, Stream] = {}
        for index, port in enumerate(ports):
            for offset, kind in ((1, "error"), (0, "data")):
                headers = pairs.request_headers(kind, port, index)
                streams[2 * index + offset] = await link.open(headers)
        await socket.accept(request)
        for index, port in enumerate(ports):
            for channel in (2 * index, 2 * index + 1):
                await socket.send(channel, channels.port_message(port))
            await streams[2 * index + 1].end()
        clean = await _run(socket, link, streams, list(streams), Idle(idle_s))
        await socket.close(clean)
    except OSError:
        pass
    finally:
        link.close()
        await running
    return socket.response


async def tunnel(request: web.BaseRequest, wire: Wire, idle_s: float | None) -> web.StreamResponse:
    """The bytes of an upgraded connection, carried by a WebSocket's messages as they are."""
    socket = Socket(pairs.TUNNEL)
    await socket.accept(request)
    idle = Idle(idle_s)

    async def up() -> None:
        async for data in socket.raw():
            idle.touch()
            await wire.write(data, socket.hung_up)

    async def down() -> None:
        while data := await wire.read():
            idle.touch()
            await socket.response.send_bytes(data)

    spawn = asyncio.get_running_loop().create_task
    try:
        await first(spawn(up()), spawn(down()), spawn(idle.watch()))
    finally:
        wire.close()
    await socket.close()
    return socket.response
