"""Calls without tasks at either end: requests pushed by the client, and taken as they come by the server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel, once
from raykube.rpc.handlers import Receiver
from raykube.rpc.served_call import Requests
from raykube.rpc.server import Server
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, Bytes, say, serving


class Echo(Receiver):
    """`fail NAME text` raises that status, `end` ends the call, `break` is a bug, `many` brings 100 long answers;
    anything else comes back."""

    def __init__(self, requests: Requests, *, ends_at_once: bool = False) -> None:
        self.requests = requests
        self.received: list[bytes] = []
        self.ends = 0
        if ends_at_once:
            requests.end()

    def on_message(self, message: Any) -> None:
        self.received.append(message.value)
        word, _, rest = message.value[:100].decode(errors="replace").partition(" ")
        if word == "fail":
            name, _, text = rest.partition(" ")
            raise RpcError(Code[name], text)
        if word == "break":
            raise KeyError("a bug")
        for _ in range(100 if word == "many" else 0):
            self.requests.send(Bytes(value=bytes(100_000)))
        self.requests.send(Bytes(value=message.value[:100]))
        if word == "end":
            self.requests.end()

    def on_end(self) -> None:
        self.ends += 1


class Handler:
    def __init__(self) -> None:
        self.made: list[Echo] = []
        self.ends_at_once = False

    def Both(self, requests: Requests, _call: Any) -> Receiver:
        self.made.append(Echo(requests, ends_at_once=self.ends_at_once))
        return self.made[-1]


class Caller:
    """A pushed call and what came of it."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self.errors: list[BaseException | None] = []
        self.call: Any = None

    async def open(self, stub: Any) -> Any:
        self.call = await stub.Both.open(lambda answer: self.answers.append(answer.value), self.errors.append)
        return self.call

    def send(self, text: str) -> bool:
        return bool(self.call.send(say(text).SerializeToString()))


@asynccontextmanager
async def echoing() -> AsyncIterator[tuple[Handler, Server, Channel]]:
    handler = Handler()
    async with serving(handler) as (server, channel):
        yield handler, server, channel


async def test_messages_go_both_ways_in_order() -> None:
    async with echoing() as (handler, _, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        for number in range(100):
            assert caller.send(f"m{number}")
        await until(lambda: len(caller.answers) == 100)
        assert caller.answers == handler.made[0].received == [b"m%d" % number for number in range(100)]
        assert caller.errors == []
        caller.call.cancel()
        caller.call.cancel()
        await until(lambda: handler.made[0].ends == 1)
        assert caller.errors == []  # who gives up is told nothing


async def test_more_than_the_windows_hold_arrives() -> None:
    """What a push finds flushed already is no reason to wait: nobody would say when to go on."""
    async with echoing() as (handler, _, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        payload = Bytes(value=bytes(300_000)).SerializeToString()
        waits = 0
        for _ in range(200):
            if not caller.call.send(payload):
                waits += 1
                room = asyncio.get_running_loop().create_future()
                caller.call.when_room(lambda room=room: room.set_result(None))
                async with asyncio.timeout(10):
                    await room
        await until(lambda: len(handler.made[0].received) == 200)
        assert waits
        assert all(len(value) == 300_000 for value in handler.made[0].received)


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [("fail NOT_FOUND gone", Code.NOT_FOUND, "gone"), ("break", Code.INTERNAL, "KeyError: 'a bug'")],
)
async def test_an_error_ends_the_call(text: str, code: Code, message: str) -> None:
    async with echoing() as (handler, _, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        caller.send("first")
        caller.send(text)
        caller.send("behind it")
        await until(lambda: bool(caller.errors))
        (error,) = caller.errors
        assert isinstance(error, RpcError)
        assert (error.code, error.message) == (code, message)
        assert handler.made[0].received == [b"first", text.encode()]
        assert handler.made[0].ends == 1
        assert caller.send("late")  # into the void


async def test_the_server_ends_the_call_when_it_wants() -> None:
    async with echoing() as (handler, _, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        caller.send("end")
        caller.send("behind it")
        await until(lambda: caller.errors == [None])
        assert caller.answers == [b"end"]
        assert handler.made[0].received == [b"end"]
        assert handler.made[0].ends == 1


async def test_an_iterating_client_and_a_receiver_understand_each_other() -> None:
    async with echoing() as (handler, _, channel):
        stub = channel.stub(ECHO)
        assert [m.value async for m in stub.Both(once(say("one")))] == [b"one"]
        assert handler.made[0].ends == 1


async def test_both_ends_hear_of_a_lost_connection() -> None:
    async with echoing() as (handler, server, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        caller.send("hello")
        await until(lambda: caller.answers == [b"hello"])
        await server.stop(0)
        await until(lambda: bool(caller.errors))
        assert isinstance(caller.errors[0], RpcError)
        assert caller.errors[0].code is Code.UNAVAILABLE
        assert handler.made[0].ends == 1
        waited = []
        caller.call.when_room(lambda: waited.append(True))
        await until(lambda: waited == [True])


async def test_nobody_is_there() -> None:
    async with echoing() as (_, server, channel):
        await server.stop(0)
        with pytest.raises(RpcError) as caught:
            await Caller().open(channel.stub(ECHO))
        assert caught.value.code is Code.UNAVAILABLE


async def test_a_receiver_may_end_its_call_as_it_is_made() -> None:
    async with echoing() as (handler, _, channel):
        handler.ends_at_once = True
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        caller.send("hello")
        await until(lambda: caller.errors == [None])
        assert handler.made[0].ends == 1
        assert handler.made[0].received == []


async def test_answers_beyond_the_windows_arrive() -> None:
    async with echoing() as (_, _, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        caller.send("many")
        await until(lambda: caller.answers[-1:] == [b"many"])
        assert len(caller.answers) == 101


async def test_a_mistake_in_taking_an_answer_ends_that_call_alone() -> None:
    async with echoing() as (_, _, channel):
        other, caller = Caller(), Caller()
        await other.open(channel.stub(ECHO))
        caller.answers = None  # type: ignore[assignment] # taking an answer raises
        await caller.open(channel.stub(ECHO))
        caller.send("hello")
        await until(lambda: bool(caller.errors))
        assert isinstance(caller.errors[0], RpcError)
        assert caller.errors[0].code is Code.INTERNAL
        other.send("hello")
        await until(lambda: other.answers == [b"hello"])


async def test_who_waits_for_room_is_told_soon_when_there_is_some() -> None:
    async with echoing() as (_, _, channel):
        caller = Caller()
        await caller.open(channel.stub(ECHO))
        told: list[int] = []
        caller.call.when_room(lambda: told.append(1))
        assert told == []
        await until(lambda: told == [1])
        payload = Bytes(value=bytes(300_000)).SerializeToString()
        while caller.call.send(payload):
            pass
        for number in (2, 3):
            caller.call.when_room(lambda number=number: told.append(number))
        await until(lambda: told == [1, 2, 3])


async def test_only_a_stream_of_requests_can_be_pushed() -> None:
    async with echoing() as (_, _, channel):
        with pytest.raises(AssertionError):
            await channel.stub(ECHO).Spread.open(print, print)
