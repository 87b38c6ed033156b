"""`Channel` against a server of grpc-go: the real etcd."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel
from tests.kit.etcd import real_etcd

SERVICES = etcd_pb2.DESCRIPTOR.services_by_name


@pytest.fixture
async def channel(tmp_path: Path) -> AsyncIterator[Channel]:
    async with real_etcd(tmp_path) as address:
        made = Channel(address)
        yield made
        await made.close()


async def test_calls_errors_and_many_at_once(channel: Channel) -> None:
    kv: Any = channel.stub(SERVICES["KV"])
    big = bytes(1_000_000)
    for n in range(3):
        await kv.Put(etcd_pb2.PutRequest(key=b"%d" % n, value=big), timeout=10)
    found = await kv.Range(etcd_pb2.RangeRequest(key=b"0", range_end=b"9"), timeout=10)
    assert [len(pair.value) for pair in found.kvs] == [len(big)] * 3
    with pytest.raises(RpcError) as caught:
        await kv.Range(etcd_pb2.RangeRequest(key=b"0", revision=99), timeout=10)
    assert caught.value.code is Code.OUT_OF_RANGE
    assert caught.value.message == "etcdserver: mvcc: required revision is a future revision"
    request = etcd_pb2.RangeRequest(key=b"0", range_end=b"9", count_only=True)
    answers = await asyncio.gather(*(kv.Range(request, timeout=20) for _ in range(500)))
    assert {answer.count for answer in answers} == {3}


async def test_a_watch_and_a_deadline(channel: Channel) -> None:
    kv: Any = channel.stub(SERVICES["KV"])
    watch: Any = channel.stub(SERVICES["Watch"])
    more: asyncio.Queue[Any] = asyncio.Queue()

    async def requests() -> AsyncIterator[Any]:
        yield etcd_pb2.WatchRequest(create_request=etcd_pb2.WatchCreateRequest(key=b"a", start_revision=1))
        while True:
            yield await more.get()

    stream = watch.Watch(requests(), timeout=10)
    assert (await anext(stream)).created
    for n in range(20):
        await kv.Put(etcd_pb2.PutRequest(key=b"a", value=b"%d" % n))
    seen: list[bytes] = []
    while len(seen) < 20:
        seen += [event.kv.value for event in (await anext(stream)).events]
    assert seen == [b"%d" % n for n in range(20)]
    more.put_nowait(etcd_pb2.WatchRequest(cancel_request=etcd_pb2.WatchCancelRequest(watch_id=0)))
    assert (await anext(stream)).canceled
    await stream.aclose()
    stream = watch.Watch(requests(), timeout=0.3)
    with pytest.raises(RpcError) as caught:
        async for _ in stream:
            pass
    # Whose clock is first is open; etcd has no code for its own.
    assert caught.value.code is Code.DEADLINE_EXCEEDED or caught.value.message == "context deadline exceeded"
