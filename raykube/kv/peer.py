"""The way to one other member: what waits for it, and the stream that takes it."""

import asyncio
from functools import partial

from raykube.kv import wire
from raykube.kv.core.identity import address_of
from raykube.kv.core.raft.messages import Message
from raykube.pb import raft_pb2
from raykube.rpc import Tls
from raykube.rpc.channel import Channel
from raykube.rpc.pushed import PushedCall

SERVICE = raft_pb2.DESCRIPTOR.services_by_name["Peer"]
WAITING_BYTES_MAX = 64 << 20  # beyond it, messages to that member are dropped: it is gone or far too slow
BATCH_BYTES_MAX = 8 << 20
DELAY_S = 0.002  # of what nobody waits for


class Peer:
    """The messages for one member, in order, and its addresses, of which one is tried at a time.

    `opening`: what each batch for it begins with. Without a stream, messages wait.
    """

    def __init__(self, member: int, urls: tuple[str, ...], tls: Tls | None, opening: bytes) -> None:
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
        self._later: Message | None = None
        self._stream: PushedCall | None = None
        self._is_full = False  # the stream has enough for now
        self._timer: asyncio.TimerHandle | None = None
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
        """Queues a message, behind what was to go later; False when the queue is full. `flush` sends what waits."""
        self._queue_later()
        return self._queue(message)

    def _queue(self, message: bytes) -> bool:
        if self._waiting_bytes + len(message) > WAITING_BYTES_MAX:
            return False
        self._waiting.append(message)
        self._waiting_bytes += len(message)
        return True

    def put_later(self, message: Message) -> None:
        """A message that goes before the next one, or a little later alone; it replaces another such. It is lost should
        the queue be full then."""
        self._later = message
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self.flush)

    def forget_later(self) -> None:
        """What is put next says the same, and more."""
        self._later = None

    def _queue_later(self) -> None:
        if self._later is not None:
            self._queue(wire.head(self._later).SerializeToString())
            self._later = None

    def flush(self) -> None:
        """Sends what waits, as far as there is a stream that takes it."""
        self._stop_timer()
        self._queue_later()
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

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Streams

    def open(self, stream: PushedCall, greeting: bytes) -> None:
        """From now on what waits goes out by `stream`, behind `greeting`."""
        self._stream = stream
        self._is_full = False
        stream.send(greeting)
        self.flush()

    def shut(self) -> None:
        """Ends the stream; what waited for it is lost. Idempotent."""
        self._stop_timer()
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None
        self._waiting.clear()
        self._waiting_bytes = 0
        self._later = None
