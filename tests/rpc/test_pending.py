"""Answers that come later, given without a task; and when they are written."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raykube.rpc import Code, RpcError
from raykube.rpc.pending import Pending
from raykube.rpc.server import Server
from raykube.rpc.turn import Turn
from tests.kit.waiting import until
from tests.rpc.echo import ECHO, say, serving


class Handler:
    """Keeps what it owes, by request."""

    def __init__(self) -> None:
        self.owed: dict[bytes, Pending] = {}

    def Unary(self, request: Any, _call: Any) -> Pending:
        found = self.owed[request.value] = Pending()
        if request.value == b"at once":
            found.set_result(request)
        return found


@asynccontextmanager
async def owing() -> AsyncIterator[tuple[Handler, Server, Any]]:
    handler = Handler()
    async with serving(handler) as (server, channel):
        yield handler, server, channel.stub(ECHO)


async def test_answers_come_in_any_order() -> None:
    async with owing() as (handler, _, stub):
        calls = {name: asyncio.create_task(stub.Unary(say(name))) for name in ("a", "b", "at once")}
        await until(lambda: len(handler.owed) == 3)
        assert (await calls["at once"]).value == b"at once"
        handler.owed[b"b"].set_result(say("2"))
        assert (await calls["b"]).value == b"2"
        assert not calls["a"].done()
        handler.owed[b"a"].set_exception(RpcError(Code.NOT_FOUND, "none"))
        with pytest.raises(RpcError, match="none") as failure:
            await calls["a"]
        assert failure.value.code is Code.NOT_FOUND


async def test_a_call_that_is_given_up_wants_no_answer() -> None:
    async with owing() as (handler, _, stub):
        call = asyncio.create_task(stub.Unary(say("a")))
        await until(lambda: b"a" in handler.owed)
        assert not handler.owed[b"a"].done()
        call.cancel()
        await until(handler.owed[b"a"].done)
        handler.owed[b"a"].set_result(say("late"))
        assert (await stub.Unary(say("at once"))).value == b"at once"


async def test_an_answer_that_cannot_be_encoded_is_the_callers_error_alone() -> None:
    async with owing() as (handler, _, stub):
        call = asyncio.create_task(stub.Unary(say("a")))
        await until(lambda: b"a" in handler.owed)
        handler.owed[b"a"].set_result("no message")
        with pytest.raises(RpcError) as failure:
            await call
        assert failure.value.code is Code.INTERNAL


async def test_a_server_that_stops_answers_what_is_owed() -> None:
    async with owing() as (handler, server, stub):
        call = asyncio.create_task(stub.Unary(say("a")))
        await until(lambda: b"a" in handler.owed)
        await server.stop(0)
        with pytest.raises(RpcError) as failure:
            await call
        assert failure.value.code is Code.UNAVAILABLE
        assert handler.owed[b"a"].done()


async def test_a_flush_writes_before_the_turn_ends() -> None:
    async with owing() as (handler, server, stub):
        calls = [asyncio.create_task(stub.Unary(say(str(number)))) for number in range(3)]
        await until(lambda: len(handler.owed) == 3)
        (connection,) = server._connections
        for owed in handler.owed.values():
            owed.set_result(say("done"))
        assert connection.core.wants_write
        server.flush()
        assert not connection.core.wants_write
        assert [(await call).value for call in calls] == [b"done"] * 3


async def test_one_connection_that_cannot_write_stops_no_other() -> None:
    turn, written, reported = Turn(), [], []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))

    def broken() -> None:
        raise KeyError("a bug")

    turn.add(broken)
    turn.add(lambda: written.append(1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (written, [str(error) for error in reported]) == ([1], ["'a bug'"])
    turn.add(lambda: written.append(2))
    turn.flush()
    assert written == [1, 2]


async def test_who_answers_is_not_hit_by_who_waits() -> None:
    reported = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
    seen = []

    def broken(pending: Pending) -> None:
        seen.append(pending.result())
        raise KeyError("a bug")

    pending = Pending()
    pending.then(broken)
    pending.set_result(1)
    assert (seen, len(reported)) == ([1], 1)
