"""Reads of many keys: the same answers, made beside the event loop."""

import threading
from pathlib import Path
from typing import Any

import pytest

from raykube.kv.core.mvcc import txn
from raykube.pb.batch_pb2 import Write
from raykube.pb.etcd_pb2 import PutRequest, RangeRequest, RangeResponse
from raykube.rpc import Code, RpcError
from tests.kv.group import running_group

pytestmark = pytest.mark.integration
KEYS = 2500
ALL = {"key": b"k/", "range_end": b"k0"}


async def test_they_are_what_the_store_holds_and_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    to_kv = txn.to_kv

    def noted(*arguments: Any) -> Any:
        threads.add(threading.get_ident())
        return to_kv(*arguments)

    async with running_group(tmp_path, 1) as group:
        keys = [b"k/%05d" % number for number in range(KEYS)]
        await group.client.write([Write(key=key, value=b"v" + key, expected_revision=-1) for key in keys])
        at_first = (await group.client.range(b"k/")).header.revision
        await group.call("m1", "KV", "Put", PutRequest(key=keys[7], value=b"newer"))
        monkeypatch.setattr(txn, "to_kv", noted)
        for asked in (
            RangeRequest(**ALL),
            RangeRequest(**ALL, serializable=True),
            RangeRequest(**ALL, revision=at_first),
            RangeRequest(**ALL, keys_only=True, limit=1500),
            RangeRequest(**ALL, sort_order=RangeRequest.DESCEND, limit=2000),
            RangeRequest(**ALL, sort_order=RangeRequest.DESCEND, sort_target=RangeRequest.MOD),
            RangeRequest(**ALL, max_mod_revision=at_first),
        ):
            threads.clear()
            answer = await group.call("m1", "KV", "Range", asked)
            assert threading.get_ident() not in threads
            member = group.services["m1"].member
            assert member is not None
            expected: RangeResponse = txn.read(member.store, asked)
            assert len(expected.kvs) > txn.PIECE_VERSIONS
            answer.header.CopyFrom(expected.header)
            assert answer == expected


async def test_refusals_of_ranges(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        for is_serializable in (False, True):
            with pytest.raises(RpcError) as caught:
                await group.call("m1", "KV", "Range", RangeRequest(**ALL, revision=99, serializable=is_serializable))
            assert caught.value.code is Code.OUT_OF_RANGE
