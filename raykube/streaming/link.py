"""A SPDY connection in asyncio: streams that are read and written as if each were a connection of its own.

    link = Link(wire, server=False)
    stdin = await link.open({"streamtype": "stdin"})

A stream whose reader is slow stops the whole connection once `STREAM_BYTES_MAX` of it wait, and so do all streams
together at `LINK_BYTES_MAX`: SPDY as spoken here has no windows of its own. Streams that nobody wants are refused.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from raykube.streaming.core import spdy
from raykube.streaming.wire import LINGER_S, Wire, patiently

STREAM_BYTES_MAX = 256 * 1024
LINK_BYTES_MAX = 4 * 1024 * 1024
ACCEPT_MAX = 256  # streams that wait to be accepted


class Stream:
    """One stream of a link."""

    def __init__(self, link: "Link", number: int, headers: Mapping[str, str]) -> None:
        self._link = link
        self.number = number
        self.headers = headers
        self._waiting = bytearray()
        self._ended = False
        self._reset = False
        self._changed = asyncio.Event()
        self._room = asyncio.Event()

    async def read(self) -> bytes:
        """What came; nothing at the end: of the stream, or of the connection."""
        while not self._waiting:
            if self._ended:
                return b""
            self._changed.clear()
            await self._changed.wait()
        data = bytes(self._waiting)
        self.discard()
        return data

    async def write(self, data: bytes, gone: Callable[[], bool] | None = None) -> None:
        """Raises ConnectionError when nobody will hear it any more; `gone` as for `Wire.write`."""
        if self._reset or self._link.closed.is_set():
            raise ConnectionResetError("the stream was reset")
        self._link.core.send(self.number, data)
        await self._link.flush(gone)

    async def end(self) -> None:
        """Says that no more will be written."""
        self._link.core.end(self.number)
        await self._link.flush()

    async def reset(self, code: int = spdy.CANCEL) -> None:
        """Gives the stream up."""
        self._link.core.reset(self.number, code)
        self.discard()
        self.on_end(reset=True)
        await self._link.flush()

    # -- for the link

    def on_data(self, data: bytes) -> None:
        self._waiting += data
        self._link.on_waiting(len(data))
        self._changed.set()

    def discard(self) -> None:
        """What waits will not be read any more."""
        self._link.on_waiting(-len(self._waiting))
        self._waiting.clear()
        self._room.set()

    def on_end(self, reset: bool = False) -> None:
        """What came before the end is still to be read: containerd resets its streams right after their last words."""
        self._ended = True
        self._reset = self._reset or reset
        self._changed.set()

    @property
    def is_full(self) -> bool:
        return len(self._waiting) > STREAM_BYTES_MAX

    @property
    def ended(self) -> bool:
        """The peer will send no more."""
        return self._ended

    async def room(self) -> None:
        self._room.clear()
        if self._waiting:
            await self._room.wait()


class Link:
    """`run` must be running while the link is used; it returns when the connection ends."""

    def __init__(self, wire: Wire, *, server: bool) -> None:
        self.core = spdy.Connection(server=server)
        self.closed = asyncio.Event()
        self._wire = wire
        self._streams: dict[int, Stream] = {}
        self._accepted: asyncio.Queue[Stream | None] = asyncio.Queue()
        self._is_accepting = server  # servers open no streams
        self._is_finishing = False
        self._waiting_bytes = 0  # of all streams
        self._room = asyncio.Event()

    async def open(self, headers: Mapping[str, str]) -> Stream:
        stream = Stream(self, self.core.open(headers), headers)
        self._streams[stream.number] = stream
        await self.flush()
        return stream

    async def accept(self) -> Stream | None:
        """The next stream that the peer opened, accepted; None when the connection ended."""
        stream = await self._accepted.get()
        if stream is None:
            self._accepted.put_nowait(None)
            return None
        self.core.reply(stream.number)
        await self.flush()
        return stream

    async def accept_no_more(self) -> None:
        """The peer has opened all that is wanted: other streams are refused, also those that wait already."""
        self._is_accepting = False
        while not self._accepted.empty():
            stream = self._accepted.get_nowait()
            if stream is None:
                self._accepted.put_nowait(None)
                break
            await self.refuse(stream)

    async def refuse(self, stream: Stream, code: int = spdy.REFUSED_STREAM) -> None:
        """Gives up a stream that the peer opened, and what it sends on it."""
        self.forget(stream)
        await stream.reset(code)

    async def flush(self, gone: Callable[[], bool] | None = None) -> None:
        """Sends what the core wants sent. Raises ConnectionError."""
        data = self.core.take_output()
        if data:
            await self._wire.write(data, gone)

    async def run(self) -> None:
        """Reads until the connection ends or breaks its protocol."""
        try:
            while data := await self._wire.read():
                for event in self.core.receive(data):
                    await self._on(event)
                await self.flush()
        except (spdy.SpdyError, OSError):
            pass  # whoever uses the link sees its streams end
        finally:
            self.close()

    async def _on(self, event: spdy.Event) -> None:
        match event:
            case spdy.Opened(number, headers):
                if self._is_accepting and self._accepted.qsize() < ACCEPT_MAX:
                    self._streams[number] = stream = Stream(self, number, headers)
                    self._accepted.put_nowait(stream)
                else:
                    self.core.reset(number, spdy.REFUSED_STREAM)
            case spdy.Data(number, data):
                found = self._streams.get(number)
                if found is not None and not self._is_finishing:
                    found.on_data(data)
                    if found.is_full:
                        await patiently(found.room, self._wire.hung_up)
                    if self._is_full:
                        await patiently(self._has_room, self._wire.hung_up)
            case spdy.Ended(number):
                if number in self._streams:
                    self._streams[number].on_end()
            case spdy.Reset(number):
                if number in self._streams:
                    self._streams.pop(number).on_end(reset=True)
            case spdy.Replied() | spdy.GoneAway():
                pass

    def on_waiting(self, more_bytes: int) -> None:
        """So many more bytes of a stream wait for their reader, or less."""
        self._waiting_bytes += more_bytes
        if not self._is_full:
            self._room.set()

    @property
    def _is_full(self) -> bool:
        return self._waiting_bytes > LINK_BYTES_MAX and not self._is_finishing

    async def _has_room(self) -> None:
        self._room.clear()
        if self._is_full:
            await self._room.wait()

    def forget(self, stream: Stream) -> None:
        """Both sides are done with it."""
        self._streams.pop(stream.number, None)
        stream.discard()

    async def finish(self) -> None:
        """Ends the connection after what was written, hearing the peer out (see `Wire.finish`)."""
        self._is_finishing = True
        for stream in self._streams.values():
            stream.discard()
        self._room.set()
        self._wire.end_writing()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                await self.closed.wait()
        self.close()

    def abort(self) -> None:
        """Ends the connection at once."""
        self.close()
        self._wire.abort()

    def close(self) -> None:
        """Ends the connection after what was written; idempotent."""
        if not self.closed.is_set():
            self.closed.set()
            for stream in self._streams.values():
                stream.on_end()
            self._accepted.put_nowait(None)
            self._wire.close()
