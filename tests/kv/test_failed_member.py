"""A member that failed answers nothing more, even while its process still runs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import batch_pb2, etcd_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.channel import Channel
from tests.kv.group import running_group

ETCD = etcd_pb2.DESCRIPTOR.services_by_name


async def test_reads_of_all_kinds_and_watches_end(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        await group.client.write([batch_pb2.Write(key=b"/a", value=b"v", expected_revision=-1)])
        channel = Channel(group.endpoints[0], None)
        is_over = asyncio.Event()

        async def watch_request() -> AsyncIterator[Any]:
            create = etcd_pb2.WatchCreateRequest(key=b"/a", start_revision=1)
            yield etcd_pb2.WatchRequest(create_request=create)
            await is_over.wait()

        async def watch() -> list[Any]:
            seen = []
            async for response in channel.stub(ETCD["Watch"]).Watch(watch_request()):
                seen.append(response)
                if response.events:
                    member = group.services["m1"].member
                    assert member is not None
                    member.fail(RuntimeError("killed by the test"))
            return seen

        with pytest.raises(RpcError) as ended:
            async with asyncio.timeout(10):
                await watch()
        assert ended.value.code is Code.UNAVAILABLE
        kv = channel.stub(ETCD["KV"])
        for serializable in (False, True):
            with pytest.raises(RpcError) as refused:
                await kv.Range(etcd_pb2.RangeRequest(key=b"/a", serializable=serializable))
            assert refused.value.code is Code.UNAVAILABLE
        with pytest.raises(RpcError) as refused:
            await kv.Txn(etcd_pb2.TxnRequest())
        assert refused.value.code is Code.UNAVAILABLE
        is_over.set()
        await channel.close()


async def test_what_cannot_be_sent_stops_the_member(tmp_path: Path) -> None:
    """It took the write along: a leader that goes on would never write again."""
    async with running_group(tmp_path, 3) as group:
        member = group.services[await group.leader()].member
        assert member is not None
        assert member.carrier is not None

        def send(_messages: object) -> None:
            raise RuntimeError("broken by the test")

        member.carrier.send = send  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            with pytest.raises(RuntimeError, match="broken by the test"):
                await member.failed
        await group.client.write([batch_pb2.Write(key=b"/a", value=b"v", expected_revision=-1)])  # by the others
