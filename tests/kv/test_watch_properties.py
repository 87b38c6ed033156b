"""Watches as clients see them, under random writes, compactions, snapshots and slow readers: etcd's nine properties.

Ordered, unique, atomic, reliable, resumable, bookmarkable, previous values, creations, filters: each is a comparison of
what a stream sent with the history that the store went through.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from raykube.kv import watch_feed
from raykube.kv.core import watchers
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version
from raykube.kv.core.mvcc.vouching import Vouching
from raykube.kv.watch_service import ALL_WATCHES, WatchService
from raykube.pb import etcd_pb2, mvcc_pb2
from raykube.rpc import RpcError

ROUNDS = 40
NOPUT, NODELETE = etcd_pb2.WatchCreateRequest.NOPUT, etcd_pb2.WatchCreateRequest.NODELETE


class StandIn:
    """What a watch service needs of a member: a store that the test changes, and tells of it."""

    def __init__(self) -> None:
        self.store = Store()
        self.on_applied: list[Callable[[], None]] = []
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.id, self.cluster_id = 1, 2
        self.replica = SimpleNamespace(
            machine=SimpleNamespace(vouching=Vouching()), node=SimpleNamespace(term=3), applied=0
        )
        self.history: list[Version] = []

    def require_sound(self) -> None:
        """It always is."""

    def remember(self, store: Store) -> None:
        """Adds to the history what happened since."""
        known = self.history[-1].mod if self.history else 0
        self.history += store.events[store.position(known + 1) :]

    def changed(self) -> None:
        """Something was applied."""
        self.remember(self.store)
        for callback in self.on_applied:
            callback()


@dataclass
class Client:
    """One watch of one stream, and what it was sent."""

    create: Any
    responses: list[Any] = field(default_factory=list)
    requests: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)

    async def ask(self) -> AsyncIterator[Any]:
        yield etcd_pb2.WatchRequest(create_request=self.create)
        while True:
            yield await self.requests.get()

    async def run(self, service: WatchService, rng: Random) -> None:
        with pytest.raises(RpcError, match="server stopped"):  # which is how all of them end
            async for response in service.Watch(self.ask(), None):
                self.responses.append(etcd_pb2.WatchResponse.FromString(response.SerializeToString()))
                for _ in range(rng.choice([0, 0, 1, 5, 30])):
                    await asyncio.sleep(0)  # a slow reader: the stream is not asked for more meanwhile


def change(member: StandIn, rng: Random, lags: bool) -> None:
    """One random thing that a log entry, or a leader's snapshot, does."""
    store = member.store
    match rng.randrange(14):
        case 0 if store.revision > store.compact_revision + 5:
            store.compact(rng.randrange(store.compact_revision + 1, store.revision - 3))
        case 1:
            store.sweep(rng.randrange(1, 10))
        case 2:
            member.store, _ = image.restore(image.capture(store).chunks())
        case 3 if lags:
            # This member lagged, and the others compacted what it has not seen.
            ahead, _ = image.restore(image.capture(store).chunks())
            for _ in range(rng.randrange(1, 8)):
                transact(ahead, rng)
            member.remember(ahead)
            if rng.random() < 0.5 and ahead.revision > ahead.compact_revision + 3:
                ahead.compact(ahead.revision - rng.randrange(3))
            member.store, _ = image.restore(image.capture(ahead).chunks())
        case _:
            transact(store, rng)
    member.changed()


def transact(store: Store, rng: Random) -> None:
    store.begin()
    for key in rng.sample(range(5), rng.randrange(1, 4)):
        if rng.random() < 0.3:
            store.delete(b"/%d" % key)
        else:
            store.put(b"/%d" % key, b"%d" % rng.randrange(10**6), 0)
    store.commit()


def wish(rng: Random, revision: int) -> Any:
    """A random watch."""
    key, end = rng.choice([(b"/", b"0"), (b"/1", b""), (b"/1", b"/3"), (b"/2", b"\0")])
    return etcd_pb2.WatchCreateRequest(
        key=key,
        range_end=end,
        start_revision=rng.choice([0, 0, rng.randrange(1, revision + 4)]),
        filters=rng.choice([[], [], [NOPUT], [NODELETE]]),
        prev_kv=rng.random() < 0.5,
        progress_notify=rng.random() < 0.5,
        fragment=rng.random() < 0.5,
    )


def judge(client: Client, history: list[Version], compacted: int, has_lagged: bool) -> str:
    """Raises AssertionError when one of the nine does not hold; returns how the watch ended."""
    create, responses = client.create, client.responses
    assert responses[0].created
    start = create.start_revision or responses[0].header.revision + 1

    def covers(version: Version) -> bool:
        if not create.range_end:
            return bool(version.key == create.key)
        return bool(version.key >= create.key and (create.range_end == b"\0" or version.key < create.range_end))

    def wants(version: Version) -> bool:
        return covers(version) and (NODELETE if version.value is None else NOPUT) not in create.filters

    # Ordered, unique, reliable, resumable, filtered: what came is the beginning of what was to come.
    wanted = [version for version in history if version.mod >= start and wants(version)]
    events = [event for response in responses for event in response.events]
    for event, version in zip(events, wanted, strict=False):
        assert (event.kv.key, event.kv.mod_revision, event.kv.value) == (
            version.key, version.mod, version.value or b"",
        )  # fmt: skip
        assert (event.type == mvcc_pb2.Event.DELETE) == (version.value is None)
        assert (event.kv.create_revision, event.kv.version) == (version.create, version.number)
        is_create = event.type == mvcc_pb2.Event.PUT and event.kv.create_revision == event.kv.mod_revision
        assert is_create == (version.value is not None and version.number == 1)
        earlier = [old for old in history if old.key == version.key and (old.mod, old.sub) < (version.mod, version.sub)]
        if event.HasField("prev_kv"):
            assert create.prev_kv
            assert (event.prev_kv.mod_revision, event.prev_kv.value) == (earlier[-1].mod, earlier[-1].value)
        elif create.prev_kv and earlier and earlier[-1].value is not None:
            assert version.mod <= compacted, "compaction had not taken the previous value"
    assert len(events) <= len(wanted)
    # Atomic: a revision is in one message, or in fragments that follow each other.
    last, is_open = 0, False
    for response in responses:
        if response.events:
            assert is_open or response.events[0].kv.mod_revision > last
            last, is_open = response.events[-1].kv.mod_revision, response.fragment
    assert not is_open or responses[-1].fragment
    # Bookmarkable: who is told of a revision has all events up to it.
    seen = told = 0
    for response in responses:
        seen += len(response.events)
        told = max([told, *(event.kv.mod_revision for event in response.events)])
        if not response.events and not response.created and not response.canceled:
            assert response.watch_id == ALL_WATCHES or create.progress_notify
            assert response.header.revision >= told, "progress went back"
            told = response.header.revision
            due = [version for version in wanted if version.mod <= response.header.revision]
            assert seen >= len(due), f"told of {response.header.revision} with {seen} of {len(due)} events"
    if responses[-1].canceled:
        compacted = responses[-1].compact_revision
        is_lost = any(version.mod < compacted for version in wanted[len(events) :])
        # What its filter hides may be what it had not passed yet.
        is_behind = any(start <= v.mod < compacted for v in history if covers(v) and not wants(v))
        is_old = 0 < create.start_revision < compacted
        assert is_lost or is_behind or is_old or has_lagged, "an idle watch was ended for nothing"
        return "compacted"
    assert len(events) == len(wanted), "something is missing"
    return "live"


@pytest.mark.parametrize("seed", range(ROUNDS))
async def test_nine_properties(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(seed)
    monkeypatch.setattr(watchers, "EVENTS_MAX", rng.choice([3, 1000]))
    monkeypatch.setattr(watchers, "SCANNED_MAX", rng.choice([2, 5000]))
    monkeypatch.setattr(watch_feed, "BYTES_MAX", rng.choice([60, 1 << 20]))
    member = StandIn()
    service = WatchService(member, rng.choice([0.001, 600.0]))  # type: ignore[arg-type] # it stands in for one
    has_lagged = seed % 2 == 0  # then a watch may be ended of which nobody can tell whether it lost anything
    clients: list[Client] = []
    tasks: list[asyncio.Task[None]] = []
    for _ in range(150):
        change(member, rng, has_lagged)
        if rng.random() < 0.15:
            client = Client(wish(rng, member.store.revision))
            clients.append(client)
            tasks.append(asyncio.create_task(client.run(service, Random(rng.random()))))
        if clients and rng.random() < 0.2:
            rng.choice(clients).requests.put_nowait(
                etcd_pb2.WatchRequest(progress_request=etcd_pb2.WatchProgressRequest())
            )
        for _ in range(rng.choice([0, 1, 3, 20])):
            await asyncio.sleep(0)
    seen = -1
    while seen != (seen := sum(len(client.responses) for client in clients)):
        for _ in range(100):
            await asyncio.sleep(0)  # the slowest reader takes 30 turns for a message
    service.close()
    await asyncio.gather(*tasks)
    ends = [judge(client, member.history, member.store.compact_revision, has_lagged) for client in clients]
    assert has_lagged or "live" in ends
