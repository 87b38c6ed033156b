"""Who shares a message of the batch stream, and who waits: short calls overtake long ones, and reads both."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import uvloop

from raykube.client import kv_stream
from raykube.client.kv_stream import (
    IN_FLIGHT_BYTES_MAX,
    IN_FLIGHT_MAX,
    MESSAGE_BYTES_MAX,
    SHORT_BYTES_MAX,
    BatchStream,
    Endpoint,
    Results,
    UnknownOutcome,
)
from raykube.pb import batch_pb2
from raykube.rpc import Code, RpcError
from tests.kit.waiting import until

LONG = MESSAGE_BYTES_MAX * 3 // 4  # two do not fit into a message
LONGS_UNDER_WAY = -(-IN_FLIGHT_BYTES_MAX // LONG)  # the last one reaches the bound


class Store:
    """A member that answers when it is told to."""

    address = "store"

    def __init__(self) -> None:
        self.asked: list[Any] = []  # requests, without the first, which it answers itself
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    def stub(self, _service: Any) -> "Store":
        return self

    async def Stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:  # the RPC's name
        hello = await anext(requests)
        reading = asyncio.create_task(self._read(requests))
        try:
            yield batch_pb2.BatchResponse(id=hello.id)
            while True:
                yield await self._answers.get()
        finally:
            reading.cancel()

    async def _read(self, requests: AsyncIterator[Any]) -> None:
        async for request in requests:
            self.asked.append(batch_pb2.BatchRequest.FromString(request.SerializeToString()))

    def answer(self, request: Any) -> None:
        results = [batch_pb2.WriteResult(applied=True) for _ in request.writes]
        self._answers.put_nowait(batch_pb2.BatchResponse(id=request.id, results=results, revision=7))

    def refuse(self, request: Any, error: str) -> None:
        self._answers.put_nowait(batch_pb2.BatchResponse(id=request.id, error=error))


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def call(stream: BatchStream, key: str, size: int) -> Results:
    write = batch_pb2.Write(key=key.encode(), value=b"x" * size)
    return stream.write([write], 60)


def keys(request: Any) -> list[str]:
    return [write.key.decode() for write in request.writes]


async def test_what_is_short_overtakes_what_is_long_and_never_stops_it() -> None:
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    longs = [call(stream, f"long-{number}", LONG) for number in range(LONGS_UNDER_WAY + 2)]
    await settled()
    assert [keys(request) for request in store.asked] == [[f"long-{n}"] for n in range(LONGS_UNDER_WAY)]

    shorts = [call(stream, f"short-{number}", 100) for number in range(3)]
    read = asyncio.create_task(stream.current_revision(60))
    await settled()
    assert len(store.asked) == LONGS_UNDER_WAY + 1, "so many bytes are enough, and a read has none"
    assert store.asked[-1].read_index

    store.answer(store.asked[0])
    await settled()
    assert keys(store.asked[-1]) == ["short-0", "short-1", "short-2", f"long-{LONGS_UNDER_WAY}"]
    for number in range(1, LONGS_UNDER_WAY + 3):
        await settled()
        store.answer(store.asked[number])
    done = await asyncio.gather(*longs, *shorts)
    assert all(result[0].applied for result in done)
    assert await read == 7
    await stream.close()


async def test_a_call_larger_than_a_message_takes_turns_with_the_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds none of them up, and those that always bring something short do not hold it up."""
    monkeypatch.setattr(kv_stream, "FULL_IN_FLIGHT_MAX", IN_FLIGHT_MAX)
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    calls = []
    for number in range(IN_FLIGHT_MAX):
        calls.append(call(stream, f"first-{number}", 10))
        await settled()
    calls += [call(stream, "huge", MESSAGE_BYTES_MAX - 100), call(stream, "long", 2 * SHORT_BYTES_MAX)]
    for number in range(4):
        calls.append(call(stream, f"short-{number}", 100))
        await settled()
        store.answer(store.asked[number])
        await settled()
    asked = [keys(request) for request in store.asked[IN_FLIGHT_MAX:]]
    assert asked[:3] == [["short-0"], ["huge"], ["short-1", "short-2", "long"]]
    for request in store.asked[4:]:
        store.answer(request)
    await asyncio.gather(*calls)
    await stream.close()


async def test_a_call_that_was_refused_with_others_goes_alone_and_is_not_held_up() -> None:
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    calls = [call(stream, "short", 10), call(stream, "long", 2 * SHORT_BYTES_MAX)]
    await settled()
    assert [keys(request) for request in store.asked] == [["short", "long"]]
    store.refuse(store.asked[0], "NOT_FOUND: etcdserver: requested lease not found")
    for number in range(1, 20):  # somebody always brings something short
        calls.append(call(stream, f"more-{number}", 10))
        await settled()
        for request in store.asked[number:]:
            store.answer(request)
        await settled()
    asked = [keys(request) for request in store.asked]
    assert ["short"] in asked and ["long"] in asked[:5]
    await asyncio.gather(*calls)
    await stream.close()


async def test_who_gives_up_is_not_sent_and_a_broken_stream_leaves_room_for_the_next() -> None:
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    longs = [call(stream, f"long-{number}", LONG) for number in range(LONGS_UNDER_WAY + 2)]
    await settled()
    longs[-1].cancel()
    store.refuse(store.asked[0], "DEADLINE_EXCEEDED: nobody knows")
    found = await asyncio.gather(*longs[:LONGS_UNDER_WAY], return_exceptions=True)
    assert all(isinstance(each, UnknownOutcome) for each in found)
    await until(lambda: len(store.asked) > LONGS_UNDER_WAY)
    assert [keys(request) for request in store.asked[LONGS_UNDER_WAY:]] == [[f"long-{LONGS_UNDER_WAY}"]]
    store.answer(store.asked[-1])
    await longs[-2]
    more = [call(stream, f"more-{number}", LONG) for number in range(LONGS_UNDER_WAY + 1)]
    await settled()
    assert len(store.asked) == 2 * LONGS_UNDER_WAY + 1
    await stream.close()
    await asyncio.gather(*more, return_exceptions=True)


def late_call(stream: BatchStream, key: str, timeout_s: float, size: int = 10) -> Results:
    write = batch_pb2.Write(key=key.encode(), value=b"x" * size)
    return stream.write([write], timeout_s)


async def test_a_call_waits_as_long_as_it_says_and_is_never_sent_after_that() -> None:
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    patient = [late_call(stream, f"patient-{number}", 60, LONG) for number in range(IN_FLIGHT_MAX)]
    await settled()
    unsent = late_call(stream, "unsent", 1.0)
    read = asyncio.create_task(stream.current_revision(0.2))
    with pytest.raises(RpcError, match="no member of the store answers: store") as unread:
        await read
    assert not unsent.done(), "the later deadline"
    with pytest.raises(RpcError, match="no member of the store answers: store") as refused:
        await unsent
    assert refused.value.code is unread.value.code is Code.UNAVAILABLE
    longs = store.asked[:IN_FLIGHT_MAX]
    for request in longs[:3]:
        store.answer(request)
    last = late_call(stream, "last", 2.0)
    await until(lambda: keys(store.asked[-1]) == ["last"])
    with pytest.raises(UnknownOutcome, match="no answer in 2 s"):
        await last
    assert not any("unsent" in keys(request) for request in store.asked)
    for request in longs[3:]:
        store.answer(request)
    await asyncio.gather(*patient)
    await stream.close()


async def test_calls_that_gave_up_are_not_kept_while_no_member_answers() -> None:
    class Away(Store):
        async def Stream(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            raise RpcError(Code.UNAVAILABLE, "nobody there")
            yield

    stream = BatchStream([cast(Endpoint, Away())])
    gone = [late_call(stream, f"gone-{number}", 0.01) for number in range(100)]
    await asyncio.gather(*gone, return_exceptions=True)
    await until(lambda: not stream._short and not stream._waiting_bytes)
    await stream.close()


@pytest.mark.parametrize("each_s", [0, 1])  # all wait equally long, or each as long as nobody else
async def test_calls_that_ended_are_not_kept_behind_one_that_waits(
    each_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_stream, "DEADLINES_MIN", 10)
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    waits = late_call(stream, "waits", 60)
    await settled()
    for number in range(100):
        done = late_call(stream, f"done-{number}", 60 + number * each_s)
        await settled()
        store.answer(store.asked[-1])
        await done
    assert len(stream._deadlines) < 40 and len(stream._deadlines._calls) < 40
    store.answer(store.asked[0])
    await waits
    await stream.close()


def test_deadlines_that_are_over_at_once_hold_nobody_up_on_uvloop() -> None:
    """Its handles of what is due now are others than those of what is due later."""

    async def run() -> None:
        store = Store()
        stream = BatchStream([cast(Endpoint, store)])
        over = late_call(stream, "over", 0.0)
        good = late_call(stream, "good", 30)
        await until(lambda: len(store.asked) == 1)
        store.answer(store.asked[0])
        with pytest.raises((RpcError, UnknownOutcome)):
            await over
        assert (await good)[0].applied
        await stream.close()

    uvloop.run(run())


async def test_a_call_larger_than_a_member_takes_is_refused_before_it_breaks_the_stream() -> None:
    store = Store()
    stream = BatchStream([cast(Endpoint, store)])
    other = call(stream, "other", 100)
    await settled()
    with pytest.raises(RpcError, match="too large") as refused:
        await call(stream, "huge", 32 << 20)
    assert refused.value.code is Code.INVALID_ARGUMENT
    largest = call(stream, "largest", (32 << 20) - 200)
    await settled()
    assert [keys(request) for request in store.asked] == [["other"], ["largest"]]
    assert store.asked[-1].ByteSize() < 32 << 20
    for request in store.asked:
        store.answer(request)
    assert (await other)[0].applied and (await largest)[0].applied
    await stream.close()
