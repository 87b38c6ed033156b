"""What a SPDY connection holds for its peer: bounded in streams and in bytes, whatever the peer sends."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from raykube.streaming import link as links
from raykube.streaming import sessions
from raykube.streaming.core.channels import Channel
from raykube.streaming.link import Link, Stream
from raykube.streaming.wire import Wire
from tests.kit.waiting import until


class Joined:
    """A client and a server over TCP; both run."""

    def __init__(self, client: Link, server: Link) -> None:
        self.client = client
        self.server = server
        self.wanted: dict[Channel, Stream] = {}

    async def exec(self) -> dict[Channel, Stream]:
        """The client's stdin and error streams, once the server has all that an exec wants."""
        mine = {channel: await self.client.open({"streamtype": channel.name.lower()}) for channel in WANTED}
        self.wanted = await asyncio.wait_for(sessions.remote_command(self.server, WANTED), 20)
        return mine


WANTED = (Channel.STDIN, Channel.ERROR)


@pytest.fixture
async def joined() -> AsyncIterator[Joined]:
    accepted: asyncio.Future[Wire] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(Wire(reader, writer))

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    near = Wire(*await asyncio.open_connection("127.0.0.1", listener.sockets[0].getsockname()[1]))
    far = await accepted
    listener.close()
    found = Joined(Link(near, server=False), Link(far, server=True))
    running = [asyncio.ensure_future(link.run()) for link in (found.client, found.server)]
    yield found
    found.client.abort()
    found.server.abort()
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def refused(stream: Stream) -> None:
    assert await asyncio.wait_for(stream.read(), 20) == b""
    with pytest.raises(ConnectionResetError):
        await stream.write(b"x")


async def test_an_exec_takes_its_streams_and_no_more(joined: Joined) -> None:
    mine = await joined.exec()
    for _ in range(3):
        late = await joined.client.open({"streamtype": "stdout"})
        await refused(late)
    await mine[Channel.STDIN].write(b"typed")
    assert await joined.wanted[Channel.STDIN].read() == b"typed"
    assert len(joined.server._streams) == len(WANTED)


async def test_streams_that_were_opened_too_early_are_refused_too(joined: Joined) -> None:
    mine = [await joined.client.open({"streamtype": kind}) for kind in ("stdin", "error", "stdout", "stdin")]
    await until(lambda: joined.server._accepted.qsize() == 4)
    await sessions.remote_command(joined.server, WANTED)
    for stream in mine[2:]:
        await refused(stream)
    assert len(joined.server._streams) == len(WANTED)


async def test_streams_that_nobody_accepts(joined: Joined) -> None:
    mine = [await joined.client.open({"streamtype": "stdin"}) for _ in range(links.ACCEPT_MAX + 3)]
    for stream in mine[links.ACCEPT_MAX :]:
        await refused(stream)
    assert joined.server._accepted.qsize() == links.ACCEPT_MAX


async def test_who_opened_a_connection_accepts_no_streams(joined: Joined) -> None:
    await refused(await joined.server.open({"streamtype": "stdin"}))


async def test_all_streams_together_wait_in_bounded_memory(joined: Joined) -> None:
    each = links.STREAM_BYTES_MAX // 2
    count = 3 * links.LINK_BYTES_MAX // each

    async def pour() -> None:
        for _ in range(count):
            stream = await joined.client.open({"streamtype": "stdin"})
            await stream.write(b"x" * each)
            await stream.end()

    pouring = asyncio.ensure_future(pour())
    taken = []
    await until(lambda: joined.server._is_full or pouring.done())
    for _ in range(count):
        stream = await asyncio.wait_for(joined.server.accept(), 20)
        assert stream is not None
        length = 0
        while part := await asyncio.wait_for(stream.read(), 20):
            length += len(part)
            # One frame may be over the bound.
            assert joined.server._waiting_bytes <= links.LINK_BYTES_MAX + 65536
        taken.append(length)
    assert taken == [each] * count
    await pouring


async def test_bytes_of_streams_that_were_given_up_do_not_count(joined: Joined) -> None:
    for _ in range(2 * links.LINK_BYTES_MAX // links.STREAM_BYTES_MAX):
        mine = await joined.client.open({"streamtype": "stdin"})
        await mine.write(b"x" * links.STREAM_BYTES_MAX)
        await mine.reset()
        stream = await asyncio.wait_for(joined.server.accept(), 20)
        assert stream is not None
        await until(lambda stream=stream: stream.ended)
        joined.server.forget(stream)
    assert joined.server._waiting_bytes == 0
