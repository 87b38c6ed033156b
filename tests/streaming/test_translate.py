"""WebSockets translated for a runtime that ends its streams in an order of its own."""

import asyncio

import aiohttp
from aiohttp import WSMsgType, web

from raykube.streaming import sessions
from raykube.streaming.core import channels, http1, outcome
from raykube.streaming.core.channels import Channel
from raykube.streaming.link import Link
from raykube.streaming.translate import Socket, offered, remote_command
from raykube.streaming.wire import Wire, dial, switching

WANTED = channels.streams(True, True, False, False)


async def test_output_arrives_though_the_runtime_takes_no_more_input() -> None:
    """As containerd does: the input is reset when the program has closed it, and the output is still to come."""
    typed = asyncio.Event()

    async def runtime(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(http1.response_head(switching(channels.V4)))
        link = Link(Wire(reader, writer), server=True)
        running = asyncio.ensure_future(link.run())
        streams = await sessions.remote_command(link, WANTED)
        await streams[Channel.STDIN].reset()
        await streams[Channel.STDOUT].write(b"closed ")
        await typed.wait()
        await streams[Channel.STDOUT].write(b"and done")
        await streams[Channel.ERROR].write(outcome.success())
        for channel in (Channel.STDOUT, Channel.ERROR):
            await streams[channel].end()
        await link.finish()
        await running

    async def kubelet(request: web.Request) -> web.StreamResponse:
        assert channels.negotiate(offered(request), channels.REMOTE_COMMAND) == channels.V5
        answer = await dial(f"http://127.0.0.1:{port}/", "POST", http1.spdy_headers(channels.V4))
        assert answer.wire is not None
        return await remote_command(request, Socket(channels.V5), answer.wire, WANTED, None)

    listener = await asyncio.start_server(runtime, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    app = web.Application()
    app.router.add_get("/", kubelet)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    output = b""
    try:
        async with (
            asyncio.timeout(20),
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"http://127.0.0.1:{runner.addresses[0][1]}/", protocols=(channels.V5,), autoping=False
            ) as client,
        ):
            async for message in client:
                if message.type is WSMsgType.PONG:  # what was typed before the ping has met the end of the input
                    typed.set()
                elif message.data[0] == Channel.STDOUT:
                    output += message.data[1:]
                    if output == b"closed ":
                        await client.send_bytes(bytes([Channel.STDIN]) + b"more")
                        await client.ping()
    finally:
        await runner.cleanup()
        listener.close()
    assert output == b"closed and done"
