"""Who would rather hear that there is no leader than wait, hears it."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from raykube.pb import etcd_pb2
from tests.kit.waiting import until
from tests.kv.group import Group, running_group

LED = (("hasleader", "true"),)


async def _lose_the_quorum(group: Group) -> str:
    """Leaves one member running, alone; returns its name."""
    left = next(name for name in group.names if name != "m1")
    for name in group.names:
        if name != left:
            await group.crash(name)
    member = group.services[left].member
    assert member is not None
    await until(lambda: not member.replica.node.leader)
    return left


def _method(channel: Any, kind: str, method: str, request: Any, response: Any) -> Any:
    return getattr(channel, kind)(f"/etcdserverpb.{method}", request.SerializeToString, response.FromString)


async def test_no_leader_is_said_to_those_who_ask_for_one(tmp_path: Path) -> None:
    async with (
        running_group(tmp_path, 3) as group,
        grpc.aio.insecure_channel(f"127.0.0.1:{group.ports['m2']}") as channel,
    ):
        put = _method(channel, "unary_unary", "KV/Put", etcd_pb2.PutRequest, etcd_pb2.PutResponse)
        read = _method(channel, "unary_unary", "KV/Range", etcd_pb2.RangeRequest, etcd_pb2.RangeResponse)
        watch = _method(channel, "stream_stream", "Watch/Watch", etcd_pb2.WatchRequest, etcd_pb2.WatchResponse)
        create = etcd_pb2.WatchRequest(create_request=etcd_pb2.WatchCreateRequest(key=b"/a"))
        led, patient = watch(metadata=LED), watch()
        for stream in (led, patient):
            await stream.write(create)
            assert (await stream.read()).created
        await put(etcd_pb2.PutRequest(key=b"/a", value=b"1"), metadata=LED)
        for stream in (led, patient):
            assert (await stream.read()).events[0].kv.value == b"1"

        assert await _lose_the_quorum(group) == "m2"
        with pytest.raises(grpc.aio.AioRpcError, match="etcdserver: no leader"):
            await put(etcd_pb2.PutRequest(key=b"/a", value=b"2"), metadata=LED)
        with pytest.raises(grpc.aio.AioRpcError, match="etcdserver: no leader") as error:
            await led.read()
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        found = await read(etcd_pb2.RangeRequest(key=b"/a", serializable=True))
        assert found.kvs[0].value == b"1"
        await group.start("m1")
        await group.leader()
        await put(etcd_pb2.PutRequest(key=b"/a", value=b"3"), metadata=LED)
        assert (await patient.read()).events[0].kv.value == b"3"
        patient.cancel()
