"""The way to one other member: what waits for it, and the stream that takes it."""

import asyncio
import ssl
from functools import partial

from raykube.kv import wire
from raykube.kv.core.identity import address_of
from raykube.pb import raft_pb2
from raykube.rpc.channel import Channel
from raykube.rpc.pushed import PushedCall

SERVICE = raft_pb2.DESCRIPTOR.services_by_name["Peer"]
WAITING_BYTES_MAX = 64 << 20  # beyond it, messages to that member are dropped: it is gone or far too slow
BATCH_BYTES_MAX = 8 << 20


class Peer:
    """The messages for one member, in order, and its addresses, of which one is tried at a time.

    `opening`: what each batch for it begins with. Without a stream, messages wait.
    """

    def __init__(self, member: int, urls: tuple[str, ...], tls: ssl.SSLContext | None, opening: bytes) -> None:
        self.member = member
        self.urls = urls
        self.refusal = ""  # the last one, which is logged once
        self.is_sending_snapshot = False
        self.task: asyncio.Task[None] | None = None  # which keeps the stream
        self._tls = tls
        self._turn = 0
        self._opening = opening
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._stream: PushedCall | None = None
        self._is_full = False  # the stream has enough for now
        self._connect()

    def _connect(self) -> None:
        scheme, address = address_of(self.urls[self._turn % len(self.urls)])
        self.channel = Channel(address, self._tls if scheme == "https" else None)
        self.stub = self.channel.stub(SERVICE)

    async def try_next_url(self) -> None:
        """Goes to the member's next address, if it has several."""
        if len(self.urls) > 1:
            self._turn += 1
            await self.channel.close()
            self._connect()

    # Messages

    def put(self, message: bytes) -> bool:
        """Queues a message; False when the queue is full: one that nothing waits before may be of any size. `flush`
        sends what waits."""
        if self._waiting and self._waiting_bytes + len(message) > WAITING_BYTES_MAX:
            return False
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        return True

    def flush(self) -> None:
        """Sends what waits, as far as there is a stream that takes it."""
        while self._waiting and self._stream is not None and not self._is_full:
            if not self._stream.send(wire.batch(self._opening, self._take())):
                self._is_full = True
                self._stream.when_room(partial(self._on_room, self._stream))

    def _on_room(self, stream: PushedCall) -> None:
        if stream is self._stream:
            self._is_full = False
            self.flush()

    def _take(self) -> list[bytes]:
        count = size = 0
        for message in self._waiting:
            if size >= BATCH_BYTES_MAX:
                break
            count += 1
            size += len(message)
        batch = self._waiting[:count]
        del self._waiting[:count]
        self._waiting_bytes -= size
        return batch

    # Streams

    def open(self, stream: PushedCall, greeting: bytes) -> None:
        """From now on what waits goes out by `stream`, behind `greeting`."""
        self._stream = stream
        self._is_full = False
        stream.send(greeting)
        self.flush()

    def shut(self) -> None:
        """Ends the stream; what waited for it is lost. Idempotent."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._waiting.clear()
        self._waiting_bytes = 0
