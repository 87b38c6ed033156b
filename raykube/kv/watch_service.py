# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Watch service: many watches on one stream, each reading the applied store at its own pace."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from raykube.kv.core.mvcc.key_index import UNBOUNDED
from raykube.kv.core.mvcc.version import Version
from raykube.kv.core.watchers import Watcher, WatchTable, pull
from raykube.kv.member import Member
from raykube.kv.watch_feed import Feed
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

WatchRequest = etcd_pb2.WatchRequest
WatchResponse = etcd_pb2.WatchResponse
_NOPUT = etcd_pb2.WatchCreateRequest.NOPUT
_NODELETE = etcd_pb2.WatchCreateRequest.NODELETE
ALL_WATCHES = -1  # watch id of an answer that is about the whole stream
ANSWERS_MAX = 1000  # that wait to be sent; at the bound the stream's requests are not read


class WatchService:
    """Answers Watch streams; wakes those that applied events concern."""

    def __init__(self, member: Member, progress_interval_s: float) -> None:
        self._member = member
        self._progress_interval_s = progress_interval_s
        self._table = WatchTable()
        self.feed = Feed()
        self._notifier: asyncio.TimerHandle | None = None
        self._streams: dict[Watcher, _Stream | _Follower] = {}
        self._open: set[_Stream | _Follower] = set()
        self._is_closed = False
        member.on_applied.append(self._on_applied)
        member.failed.add_done_callback(lambda _: self._end_all())

    def _on_applied(self) -> None:
        self.feed.clear()
        if self._member.replica.machine.vouching.disputed:
            self._end_all()
            return
        for watcher in self._table.on_applied(self._member.store):
            self._streams[watcher].mark(watcher)

    def add(self, watcher: Watcher, stream: "_Stream | _Follower") -> None:
        self._table.add(watcher)
        self._streams[watcher] = stream

    def remove(self, watcher: Watcher) -> None:
        self._table.remove(watcher)
        self._streams.pop(watcher, None)

    def close(self) -> None:
        """Ends all streams: the member stops."""
        self._is_closed = True
        if self._notifier is not None:
            self._notifier.cancel()
        self._end_all()

    def _end_all(self) -> None:
        for stream in self._open:
            stream.end()

    def _notify_later(self) -> None:
        self._notifier = asyncio.get_running_loop().call_later(self._progress_interval_s, self._notify)

    def _notify(self) -> None:
        for stream in self._open:
            stream.notify_progress()
        self._notify_later()

    def header(self) -> etcd_pb2.ResponseHeader:
        member = self._member
        return etcd_pb2.ResponseHeader(
            cluster_id=member.cluster_id,
            member_id=member.id,
            revision=member.store.revision,
            raft_term=member.replica.node.term,
        )

    async def versions(self, key: bytes, range_end: bytes, start: int) -> AsyncGenerator[Version, None]:
        """What happens to keys from revision `start` on, for a service beside this one; `range_end` as etcd's. It ends
        where the position was compacted: whoever reads goes back to the present. Raises RpcError when the member stops.
        """
        follower = _Follower()
        watcher = Watcher(0, key, range_end, start, has_begun=start >= self._member.store.compact_revision)
        self._open.add(follower)
        self.add(watcher, follower)
        try:
            while not (follower.is_ended or self._is_closed):
                found = pull(self._member.store, watcher)
                if found.is_compacted:
                    return
                for version in found.events:
                    yield version
                if watcher.is_dirty:
                    await asyncio.sleep(0)
                    continue
                await follower.woken.wait()
                follower.woken.clear()
            self._member.require_sound()
            raise RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")
        finally:
            self._open.discard(follower)
            self.remove(watcher)

    async def Watch(self, requests: AsyncIterator[Any], _call: Any) -> AsyncIterator[Any]:
        self._member.require_sound()
        stream = _Stream(self, self._member)
        self._open.add(stream)
        if self._is_closed:
            stream.end()
        elif self._notifier is None:
            self._notify_later()
        reader = asyncio.create_task(stream.read(requests))
        try:
            async for response in stream.responses():
                yield response
            if self._is_closed:
                # etcd's clients take a good end for the end of their watches; these they resume, here or elsewhere.
                raise RpcError(Code.UNAVAILABLE, "etcdserver: server stopped")
            self._member.require_sound()
        finally:
            self._open.discard(stream)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader
            stream.close()


class _Follower:
    """A reader of the store's changes in this process."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self.is_ended = False

    def mark(self, _watcher: Watcher) -> None:
        self.woken.set()

    def end(self) -> None:
        self.is_ended = True
        self.woken.set()

    def notify_progress(self) -> None:
        """It does not ask for it."""


class _Stream:
    """One client's stream: its watches, those with something to say, and answers to its requests."""

    def __init__(self, service: WatchService, member: Member) -> None:
        self._service = service
        self._member = member
        self._watchers: dict[int, Watcher] = {}
        self._dirty: dict[Watcher, None] = {}
        self._control: list[Any] = []
        self._progress: dict[int, None] = {}  # ids of watches that are to be told how far they are
        self._woken = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_ended = False
        self._ids = itertools.count()

    def mark(self, watcher: Watcher) -> None:
        self._dirty[watcher] = None
        self._woken.set()

    def end(self) -> None:
        self._is_ended = True
        self._woken.set()

    def close(self) -> None:
        for watcher in self._watchers.values():
            self._service.remove(watcher)
        self._watchers.clear()

    async def responses(self) -> AsyncIterator[Any]:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._control or self._dirty or self._progress:
                if self._is_ended:
                    return
                control, self._control = self._control, []
                self._has_room.set()
                for response in control:
                    yield response
                dirty, self._dirty = self._dirty, {}
                for watcher in dirty:
                    if watcher.id in self._watchers:
                        for response in self._pull(watcher):
                            yield response
                if self._dirty:
                    await asyncio.sleep(0)  # a long catch-up must let the others have their turn
                    continue
                # Only now, in the order in which things happened: nothing that was sent is newer than this.
                progress, self._progress = self._progress, {}
                for watch_id in progress:
                    if self._is_synced(watch_id):
                        yield WatchResponse(header=self._service.header(), watch_id=watch_id)
            if self._is_ended:
                return

    def _pull(self, watcher: Watcher) -> Iterable[Any]:
        """What is next for `watcher`."""
        store = self._member.store
        found = self._service.feed.responses(store, watcher, self._service.header)
        if found is None:
            self._remove(watcher.id)
            # As etcd: the compacted revision, -1 where there was no compaction, is the reason, and there is no text.
            gone = WatchResponse(watch_id=watcher.id, canceled=True, compact_revision=store.compact_revision or -1)
            gone.header.CopyFrom(self._service.header())
            return (gone,)
        if watcher.is_dirty:
            self.mark(watcher)
        return found

    async def read(self, requests: AsyncIterator[Any]) -> None:
        """Takes the client's requests until it has no more; its watches go on."""
        try:
            async for request in requests:
                if len(self._control) >= ANSWERS_MAX:
                    self._has_room.clear()
                    await self._has_room.wait()
                match request.WhichOneof("request_union"):
                    case "create_request":
                        self._create(request.create_request)
                    case "cancel_request":
                        self._cancel(request.cancel_request.watch_id)
                    case "progress_request":
                        self._progress[ALL_WATCHES] = None
                self._woken.set()
        except Exception as error:
            log.debug("watch stream ends: %s", error)
            self.end()

    def _create(self, request: Any) -> None:
        header = self._service.header()
        key = request.key or b"\0"  # as in etcd: the smallest key
        reason = ""
        if request.range_end not in (b"", UNBOUNDED) and request.range_end <= key:
            reason = "mvcc: watcher range is empty"
        elif request.watch_id in self._watchers and request.watch_id:
            reason = "mvcc: duplicate watch ID provided on the WatchStream"
        if reason:
            self._control.append(
                WatchResponse(header=header, watch_id=ALL_WATCHES, created=True, canceled=True, cancel_reason=reason)
            )
            return
        watch_id = request.watch_id or next(number for number in self._ids if number not in self._watchers)
        store = self._member.store
        start = request.start_revision or store.revision + 1  # a negative one is compacted, as in etcd
        watcher = Watcher(
            watch_id,
            key,
            request.range_end,
            start,
            _NOPUT in request.filters,
            _NODELETE in request.filters,
            request.prev_kv,
            request.progress_notify,
            request.fragment,
            has_begun=start >= store.compact_revision,
        )
        self._watchers[watch_id] = watcher
        self._service.add(watcher, self)
        self._control.append(WatchResponse(header=header, watch_id=watch_id, created=True))
        self.mark(watcher)

    def _remove(self, watch_id: int) -> bool:
        watcher = self._watchers.pop(watch_id, None)
        if watcher is None:
            return False
        self._dirty.pop(watcher, None)
        self._service.remove(watcher)
        return True

    def _cancel(self, watch_id: int) -> None:
        if self._remove(watch_id):
            self._control.append(WatchResponse(header=self._service.header(), watch_id=watch_id, canceled=True))

    def _is_synced(self, watch_id: int) -> bool:
        """Whether a watch, or all of them, may be told of the present: progress never runs ahead of events."""
        revision = self._member.store.revision
        if watch_id == ALL_WATCHES:
            return bool(self._watchers) and all(each.is_synced(revision) for each in self._watchers.values())
        return watch_id in self._watchers and self._watchers[watch_id].is_synced(revision)

    def notify_progress(self) -> None:
        """Tells the watches that asked for it, and are idle, how far they are."""
        for watcher in self._watchers.values():
            if watcher.progress_notify and self._is_synced(watcher.id):
                self._progress[watcher.id] = None
                self._woken.set()
