"""What clients may not send."""

import resource
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from raykube.kv.batch_service import BATCH_BYTES_MAX
from raykube.kv.service import OVERHEAD_BYTES
from raykube.pb import batch_pb2, etcd_pb2
from raykube.rpc import Code, RpcError
from tests.kv.group import Group, running_group

pytestmark = pytest.mark.integration


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    async with running_group(tmp_path, 1) as made:
        yield made


async def test_a_batch_writes_no_empty_key(group: Group) -> None:
    writes = [batch_pb2.Write(key=key, value=b"v", expected_revision=-1) for key in (b"a", b"", b"b")]
    with pytest.raises(RpcError) as caught:
        await group.client.write(writes)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "etcdserver: key is not provided")
    found = await group.client.range(b"a")
    assert found.count == 0


async def test_messages_are_bounded_before_anybody_reads_them(group: Group) -> None:
    put = etcd_pb2.PutRequest(key=b"a", value=bytes(BATCH_BYTES_MAX - 1000))
    with pytest.raises(RpcError) as caught:
        await group.call("m1", "KV", "Put", put)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "etcdserver: request is too large")
    put.value = bytes(BATCH_BYTES_MAX + OVERHEAD_BYTES)
    with pytest.raises(RpcError) as caught:
        await group.call("m1", "KV", "Put", put)
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    await group.client.write([batch_pb2.Write(key=b"a", value=b"v", expected_revision=-1)])


async def test_much_metadata_costs_nobody_the_connection(group: Group) -> None:
    create = etcd_pb2.WatchRequest(create_request=etcd_pb2.WatchCreateRequest(key=b"a"))
    async with grpc.aio.insecure_channel(group.endpoints[0]) as channel:
        watch = channel.stream_stream(
            "/etcdserverpb.Watch/Watch", etcd_pb2.WatchRequest.SerializeToString, etcd_pb2.WatchResponse.FromString
        )()
        await watch.write(create)
        assert (await watch.read()).created
        put = channel.unary_unary(
            "/etcdserverpb.KV/Put", etcd_pb2.PutRequest.SerializeToString, etcd_pb2.PutResponse.FromString
        )
        await put(etcd_pb2.PutRequest(key=b"a"), metadata=(("baggage", "x" * 50_000),), timeout=10)
        assert (await watch.read()).events[0].kv.key == b"a"
        watch.cancel()


async def test_a_member_may_open_as_many_files_as_it_is_allowed(tmp_path: Path) -> None:
    """Connections beyond the usual 1024 would leave none for the log's next segment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 1024), hard))
    try:
        async with running_group(tmp_path, 1):
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
