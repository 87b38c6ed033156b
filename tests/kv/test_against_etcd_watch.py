"""The same watches on the real etcd and on ours: the same events, ids, refusals.

How events are dealt out to messages is a matter of time in either, so events are compared by watch, and headers only
where nothing else goes on. Left out: watches from the revision of a compaction at which a key was deleted, an event
that etcd 3.5.1 forgets some time after the compaction; later ones keep it, as ours does.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import etcd_pb2
from tests.kit.etcd import Refusal, Wire
from tests.kit.waiting import until
from tests.kv.etcd_requests import KEYS, Request, Requests
from tests.kv.test_against_etcd import Pair, comparable, pair, running_pair

__all__ = ["pair"]
pytestmark = pytest.mark.integration

WatchRequest = etcd_pb2.WatchRequest


class Watching:
    """One stream to one server, and what came."""

    def __init__(self, wire: Wire) -> None:
        self.answers: list[Any] = []
        self.events: dict[int, list[Any]] = {}
        self.compacted: dict[int, Any] = {}
        self.fragments = 0  # messages that are not the last of their revision
        self._stream = wire.stream("Watch", "Watch")
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for response in self._stream:
            response = comparable(response)
            self.fragments += response.fragment
            if response.compact_revision:
                self.compacted[response.watch_id] = response
                response.header.Clear()
            elif response.events:
                self.events.setdefault(response.watch_id, []).extend(response.events)
            else:
                self.answers.append(response)

    async def send(self, **request: Any) -> None:
        await self._stream.write(WatchRequest(**request))

    async def close(self) -> None:
        self._stream.cancel()
        await asyncio.wait({self._reader})


class Watches:
    """The same watches on both."""

    def __init__(self, pair: Pair) -> None:
        self.ours, self.etcd = self.both = Watching(pair.ours), Watching(pair.etcd)

    async def ask(self, **request: Any) -> Any:
        """Sends a request that is answered with one message, to both; returns etcd's answer."""
        count = len(self.etcd.answers)
        for each in self.both:
            await each.send(**request)
        await until(lambda: all(len(each.answers) > count for each in self.both), what=f"answers to {request}")
        assert self.ours.answers == self.etcd.answers, request
        return self.etcd.answers[-1]

    async def have_seen(self, revision: int, watches: list[int]) -> None:
        """Returns when both have shown `revision` to each of `watches`."""

        def is_seen(each: Watching, watch: int) -> bool:
            events = each.events.get(watch)
            return watch in each.compacted or bool(events and events[-1].kv.mod_revision >= revision)

        await until(
            lambda: all(is_seen(each, watch) for each in self.both for watch in watches),
            what=f"{revision} for {watches}: {self.ours.compacted.keys()} {self.etcd.compacted.keys()}",
        )

    def compare(self) -> None:
        assert self.ours.compacted == self.etcd.compacted
        assert self.ours.events.keys() == self.etcd.events.keys()
        for watch, events in self.etcd.events.items():
            for mine, theirs in zip(self.ours.events[watch], events, strict=True):
                assert mine == theirs, watch


@pytest.fixture
async def watches(pair: Pair) -> AsyncIterator[Watches]:
    watches = Watches(pair)
    yield watches
    for each in watches.both:
        await each.close()


async def _ask_many(pair: Pair, requests: Requests, count: int, compacts: bool = True) -> int:
    """Asks both the next random requests; returns the revision of the last compaction."""
    compacted = 0
    while count:
        request = requests.draw()
        if compacts or request.method != "Compact":
            answer = await pair.ask(request)
            if not isinstance(answer, Refusal):
                requests.revision = answer.header.revision or requests.revision
                if request.method == "Compact":
                    compacted = request.message.revision
            count -= 1
    return compacted


async def _touch_all(pair: Pair) -> tuple[int, int]:
    """Puts all keys in one transaction and deletes them in another; returns both revisions."""
    puts = [etcd_pb2.RequestOp(request_put=etcd_pb2.PutRequest(key=key, value=b"end")) for key in (*KEYS, b"\0")]
    put = await pair.ask(Request("KV", "Txn", etcd_pb2.TxnRequest(success=puts)))
    delete = await pair.ask(
        Request("KV", "DeleteRange", etcd_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0", prev_kv=True))
    )
    return put.header.revision, delete.header.revision


@pytest.mark.parametrize("seed", range(4))
async def test_random_watches(pair: Pair, watches: Watches, seed: int) -> None:
    requests = Requests(seed)
    compacted = await _ask_many(pair, requests, 200)
    seeing_puts, seeing_deletes = [], []
    for _ in range(40):
        create = requests.watch()
        create.start_revision += create.start_revision == compacted
        answer = await watches.ask(create_request=create)
        if not answer.canceled and create.start_revision <= requests.revision:
            if 0 not in create.filters:
                seeing_puts.append(answer.watch_id)
            if 1 not in create.filters:
                seeing_deletes.append(answer.watch_id)
    await _ask_many(pair, requests, 100, compacts=False)
    put, delete = await _touch_all(pair)
    await watches.have_seen(put, seeing_puts)
    await watches.have_seen(delete, seeing_deletes)
    watches.compare()


async def test_ids(pair: Pair, watches: Watches) -> None:
    for number in (0, 2, 0, 0, 0, 2, 7, 0):
        await watches.ask(create_request={"key": b"a", "watch_id": number})
    for number in (2, 0):
        await watches.ask(cancel_request={"watch_id": number})
    for number in (0, 2, 0):
        await watches.ask(create_request={"key": b"a", "watch_id": number})
    # The cancellation of what is not there is not answered: the next answer is that of the next request.
    for each in watches.both:
        await each.send(cancel_request={"watch_id": 99})
    await watches.ask(cancel_request={"watch_id": 2})
    assert [answer.watch_id for answer in watches.etcd.answers] == [0, 2, 1, 3, 4, -1, 7, 5, 2, 0, 6, 2, 8, 2]


async def test_progress_on_request(pair: Pair, watches: Watches) -> None:
    await watches.ask(create_request={"key": b"a"})
    await _touch_all(pair)
    await until(lambda: all(len(each.events.get(0, ())) == 2 for each in watches.both))
    answer = await watches.ask(progress_request={})
    assert (answer.watch_id, answer.header.revision) == (-1, 3)


async def test_compaction_leaves_a_watch_that_is_up_to_date(pair: Pair, watches: Watches) -> None:
    await watches.ask(create_request={"key": b"a", "prev_kv": True})
    await _touch_all(pair)
    await _touch_all(pair)
    await pair.ask(Request("KV", "Compact", etcd_pb2.CompactionRequest(revision=4, physical=True)))
    await watches.ask(create_request={"key": b"a", "start_revision": 3})
    await watches.ask(create_request={"key": b"a", "start_revision": 4, "prev_kv": True})
    await until(lambda: all(1 in each.compacted for each in watches.both))
    _, delete = await _touch_all(pair)
    await watches.have_seen(delete, [0, 2])
    watches.compare()


async def test_a_negative_revision_is_compacted(pair: Pair, watches: Watches) -> None:
    """Not asked: -1 before the first compaction, with which etcd 3.5.1 loses events; ours refuses it like any other."""
    await _touch_all(pair)
    for start in (-2, -7, -(1 << 63)):
        await watches.ask(create_request={"key": b"a", "start_revision": start})
    await until(lambda: all(len(each.compacted) == 3 for each in watches.both))
    await pair.ask(Request("KV", "Compact", etcd_pb2.CompactionRequest(revision=3)))
    for start in (-1, -2, -(1 << 63)):
        await watches.ask(create_request={"key": b"a", "range_end": b"b", "start_revision": start})
    await until(lambda: all(len(each.compacted) == 6 for each in watches.both))
    watches.compare()
    assert [watches.etcd.compacted[watch].compact_revision for watch in range(6)] == [-1, -1, -1, 3, 3, 3]


async def test_a_key_written_twice_in_a_revision(pair: Pair, watches: Watches) -> None:
    def put(key: bytes) -> Any:
        return etcd_pb2.RequestOp(request_put=etcd_pb2.PutRequest(key=key, value=b"1"))

    def nested(operation: Any) -> Any:
        return etcd_pb2.RequestOp(request_txn=etcd_pb2.TxnRequest(success=[operation]))

    delete = etcd_pb2.RequestOp(request_delete_range=etcd_pb2.DeleteRangeRequest(key=b"a", range_end=b"b"))
    everything = etcd_pb2.RequestOp(request_delete_range=etcd_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    await watches.ask(create_request={"key": b"a", "range_end": b"z", "prev_kv": True})
    for operations in (
        [nested(put(b"a1")), nested(delete)],
        [put(b"a1"), put(b"a2")],
        [nested(put(b"a1")), nested(delete)],
        [put(b"a1")],
        [everything, put(b"a1"), put(b"a2")],
        [everything, nested(put(b"a1")), nested(delete)],
    ):
        revision = (await pair.ask(Request("KV", "Txn", etcd_pb2.TxnRequest(success=operations)))).header.revision
        for at in (revision, revision - 1):
            await pair.ask(Request("KV", "Range", etcd_pb2.RangeRequest(key=b"a", range_end=b"z", revision=at)))
    await watches.have_seen(revision, [0])
    await watches.ask(create_request={"key": b"a", "range_end": b"z", "prev_kv": True, "start_revision": 2})
    await watches.have_seen(revision, [1])
    await until(lambda: len(watches.ours.events[1]) == len(watches.etcd.events[1]))
    watches.compare()


async def test_a_large_revision_comes_in_fragments_when_asked_for(pair: Pair, watches: Watches) -> None:
    """The real one cuts at its largest request and half a mebibyte, ours sooner; both so that gRPC takes each piece."""
    for fragment in (False, True):
        await watches.ask(create_request={"key": b"a", "range_end": b"b", "prev_kv": True, "fragment": fragment})
    for value in (b"1", b"2"):
        puts = [
            etcd_pb2.RequestOp(request_put=etcd_pb2.PutRequest(key=b"a%d" % number, value=value * 14_000))
            for number in range(100)
        ]
        revision = (await pair.ask(Request("KV", "Txn", etcd_pb2.TxnRequest(success=puts)))).header.revision
    await watches.have_seen(revision, [0, 1])
    await until(lambda: all(len(each.events[1]) == 200 for each in watches.both))
    watches.compare()
    assert watches.etcd.fragments
    assert watches.ours.fragments


async def test_an_expired_lease_is_a_deletion(pair: Pair, watches: Watches) -> None:
    await pair.ask(Request("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=5, TTL=1)))
    for key in (b"a", b"b"):
        await pair.ask(Request("KV", "Put", etcd_pb2.PutRequest(key=key, lease=5)))
    await watches.ask(create_request={"key": b"a", "range_end": b"z", "prev_kv": True})
    await until(lambda: all(len(each.events.get(0, ())) == 2 for each in watches.both), 15)
    # In one revision, in the order of keys.
    watches.compare()
    assert {event.kv.mod_revision for event in watches.etcd.events[0]} == {4}
    await pair.ask(Request("Lease", "LeaseTimeToLive", etcd_pb2.LeaseTimeToLiveRequest(ID=5, keys=True)))


async def test_an_idle_watch_hears_of_progress(tmp_path: Path) -> None:
    async with running_pair(tmp_path, watch_progress_notify_interval="0.2s") as pair:
        watches = Watches(pair)
        try:
            await watches.ask(create_request={"key": b"a", "progress_notify": True, "watch_id": 7})
            for each in watches.both:
                # Not the watch's own key: only the store's revision moves.
                wire = pair.ours if each is watches.ours else pair.etcd
                await wire.call("KV", "Put", etcd_pb2.PutRequest(key=b"b"))
            for each in watches.both:
                await until(lambda each=each: each.answers[-1].header.revision == 2, 15)
                assert each.answers[-1] == etcd_pb2.WatchResponse(header={"revision": 2}, watch_id=7)
        finally:
            for each in watches.both:
                await each.close()
