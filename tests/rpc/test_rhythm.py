"""Both roles of the core joined by wires of any rhythm: messages arrive once and in order, and every call ends."""

import random

import pytest

from raykube.rpc.core.client import ClientConnection
from raykube.rpc.core.connection import Connection
from raykube.rpc.core.events import CallCancelled, CallFinished, CallOpened, Event, MessageReceived
from raykube.rpc.core.limits import Limits
from raykube.rpc.core.server import ServerConnection
from raykube.rpc.errors import Code


class Life:
    """A client and a server joined by wires that carry pieces of any size in any rhythm."""

    def __init__(self, draw: random.Random) -> None:
        self.draw = draw
        small = Limits(
            stream_window_bytes=65_535 + draw.randrange(3) * 1000,
            connection_window_bytes=65_535 + draw.randrange(3) * 50_000,
            streams_max=draw.choice([1, 3, 20]),
            stream_queue_bytes=draw.choice([1, 1000, 100_000]),
            output_bytes_max=draw.choice([1, 1000, 100_000]),
            frame_bytes_max=draw.choice([16_384, 70_000]),
        )
        self.client, self.server = ClientConnection("x", limits=small), ServerConnection(small)
        self.wires = {"up": b"", "down": b""}
        self.asked: dict[int, list[bytes]] = {}  # by stream: what the client sent, and the server got
        self.got: dict[int, list[bytes]] = {}
        self.answered: dict[int, list[bytes]] = {}
        self.back: dict[int, list[bytes]] = {}
        self.open_asks: set[int] = set()
        self.open_answers: set[int] = set()
        self.blocked: set[tuple[str, int]] = set()
        self.untaken: list[tuple[Connection, int, bytes]] = []
        self.finished: dict[int, Code] = {}
        self.cancelled: set[int] = set()

    def is_over(self) -> bool:
        """Whether nothing more can happen."""
        ends = (self.client, self.server)
        return not any(self.wires.values()) and not any(end.calls or end.wants_write for end in ends)

    def message(self) -> bytes:
        return self.draw.randbytes(self.draw.choice([0, 1, 10, 1000, 20_000, 150_000]))

    def step(self, quiet: bool) -> None:
        match self.draw.randrange(4 if quiet else 10):
            case 0:
                self.move("up", self.client, self.server)
            case 1:
                self.move("down", self.server, self.client)
            case 2:
                if self.untaken:
                    end, stream, message = self.untaken.pop(0)
                    end.taken(stream, message)
            case 3:
                self.finish_one(quiet)
            case 4 | 5 if self.client.can_open:
                stream = self.client.open_call("/s/M")
                self.asked[stream], self.back[stream] = [], []
                self.open_asks.add(stream)
            case 6 | 7 if self.open_asks:
                stream = self.draw.choice(sorted(self.open_asks))
                if ("up", stream) not in self.blocked:
                    message, end = self.message(), self.draw.random() < 0.4
                    if not self.client.send_message(stream, message, end=end):
                        self.blocked.add(("up", stream))
                    self.asked[stream].append(message)
                    if end:
                        self.open_asks.discard(stream)
            case 8 if self.open_answers:
                stream = self.draw.choice(sorted(self.open_answers))
                if ("down", stream) not in self.blocked:
                    message = self.message()
                    if not self.server.send_message(stream, message):
                        self.blocked.add(("down", stream))
                    self.answered[stream].append(message)
            case 9 if self.open_asks and self.draw.random() < 0.2:
                stream = self.draw.choice(sorted(self.open_asks))
                self.client.reset(stream)
                self.open_asks.discard(stream)
                self.cancelled.add(stream)

    def finish_one(self, quiet: bool) -> None:
        if self.open_asks and (quiet or self.draw.random() < 0.2):
            stream = self.draw.choice(sorted(self.open_asks))
            self.client.end(stream)
            self.open_asks.discard(stream)
        elif self.open_answers and (quiet or self.draw.random() < 0.2):
            stream = self.draw.choice(sorted(self.open_answers))
            self.server.finish(stream)
            self.open_answers.discard(stream)

    def move(self, way: str, source: Connection, target: Connection) -> None:
        self.wires[way] += source.outgoing()
        self.blocked -= {(way, stream) for stream in source.drained()}
        size = self.draw.choice([1, 10, 5000, 1 << 20])
        data, self.wires[way] = self.wires[way][:size], self.wires[way][size:]
        for event in target.receive(data, 0.0):
            self.on_event(target, event)

    def on_event(self, end: Connection, event: Event) -> None:
        if isinstance(event, CallOpened):
            self.got[event.stream], self.answered[event.stream] = [], []
            self.open_answers.add(event.stream)
        elif isinstance(event, MessageReceived):
            (self.got if end is self.server else self.back)[event.stream].append(event.message)
            self.untaken.append((end, event.stream, event.message))
        elif isinstance(event, CallFinished):
            assert event.stream not in self.finished
            self.finished[event.stream] = event.code
            self.open_asks.discard(event.stream)
        elif isinstance(event, CallCancelled):
            self.open_answers.discard(event.stream)


@pytest.mark.parametrize("part", range(4))
def test_whatever_the_rhythm_messages_arrive_once_and_in_order(part: int) -> None:
    for seed in range(part * 15, part * 15 + 15):
        life = Life(random.Random(seed))
        for _ in range(400):
            life.step(quiet=False)
        for _ in range(200_000):
            if life.is_over():
                break
            life.step(quiet=True)
        else:
            pytest.fail(f"seed {seed}: calls hang: {life.client.calls} {life.server.calls}")
        assert not life.client.ended, seed
        assert not life.server.ended, seed
        for stream in life.asked:
            if stream in life.cancelled:
                sent = life.asked[stream]
                assert life.got.get(stream, []) == sent[: len(life.got.get(stream, []))]
                continue
            assert life.finished[stream] in (Code.OK, Code.UNAVAILABLE), seed
            if life.finished[stream] is Code.OK:
                assert life.back[stream] == life.answered[stream], f"seed {seed}"
            got = life.got.get(stream, [])
            assert got == life.asked[stream][: len(got)], f"seed {seed}"
