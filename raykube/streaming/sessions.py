"""The serving end of exec, attach and port-forward over SPDY: which streams a client opened, and who serves them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from raykube.streaming.core import spdy
from raykube.streaming.core.channels import Channel
from raykube.streaming.core.pairs import Pair, PairError, Pairs
from raykube.streaming.link import Link, Stream

STREAMS_WAIT_S = 30.0  # upstream's --streaming-stream-creation-timeout
PIECE_BYTES = 64 * 1024


async def remote_command(link: Link, wanted: Sequence[Channel]) -> dict[Channel, Stream]:
    """The streams of an exec or attach, once the client opened all. Raises ConnectionError when it does not."""
    found: dict[Channel, Stream] = {}
    names = {channel.name.lower(): channel for channel in wanted}
    try:
        async with asyncio.timeout(STREAMS_WAIT_S):
            while len(found) < len(wanted):
                stream = await link.accept()
                if stream is None:
                    raise ConnectionResetError("the client left before it opened its streams")
                channel = names.get(stream.headers.get("streamtype", ""))
                if channel is None or channel in found:
                    await link.refuse(stream, spdy.PROTOCOL_ERROR)
                else:
                    found[channel] = stream
    except TimeoutError:
        raise ConnectionResetError("timed out waiting for client to create streams") from None
    await link.accept_no_more()
    return found


Forward = Callable[[int, Stream], Awaitable[None]]


async def port_forward(link: Link, forward: Forward) -> None:
    """Serves pairs until the client leaves: `forward(port, data)` for each, all at once.

    What `forward` raises as OSError is told on the pair's error stream.
    """
    table = Pairs()
    streams: dict[int, Stream] = {}
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def expire(number: int) -> None:
        await asyncio.sleep(STREAMS_WAIT_S)
        if number in streams:
            table.forget(number)
            lonely = streams.pop(number)
            await link.refuse(lonely, spdy.CANCEL)

    def spawn(work: Awaitable[None]) -> None:
        task = loop.create_task(_quietly(work))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    try:
        while (stream := await link.accept()) is not None:
            try:
                pair = table.on_opened(stream.number, stream.headers)
            except PairError:
                await link.refuse(stream)
                continue
            streams[stream.number] = stream
            if pair is None:
                spawn(expire(stream.number))
            else:
                spawn(_serve(link, pair, streams.pop(pair.error), streams.pop(pair.data), forward))
    finally:
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quietly(work: Awaitable[None]) -> None:
    with suppress(OSError):  # the client left
        await work


async def _serve(link: Link, pair: Pair, error: Stream, data: Stream, forward: Forward) -> None:
    try:
        try:
            await forward(pair.port, data)
        except OSError as problem:
            await error.write(f"error forwarding port {pair.port}: {problem}".encode())
        await data.end()
        await error.end()
    finally:
        link.forget(data)
        link.forget(error)


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: Stream) -> None:
    """Joins a connection to a pod and a forwarded port, until the pod closes its side; the client may do so before."""

    async def up() -> None:
        with suppress(OSError):
            while part := await data.read():
                writer.write(part)
                await writer.drain()
            writer.write_eof()

    upwards = asyncio.ensure_future(up())
    try:
        while part := await reader.read(PIECE_BYTES):
            await data.write(part)
    finally:
        upwards.cancel()
        await asyncio.gather(upwards, return_exceptions=True)
        writer.close()
