"""What watchers get, encoded once for all who stand at one place: 1,000 watchers of a prefix cost one encoding."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from raykube.base.encoded import Encoded
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.mvcc.version import Version, to_kv
from raykube.kv.core.watchers import BYTES_MAX, Watcher, pull
from raykube.pb import etcd_pb2, mvcc_pb2

WatchResponse = etcd_pb2.WatchResponse
SHARED_BYTES_MAX = 8 << 20  # kept for others who may come to the same place


@dataclass(slots=True)
class _Share:
    """What `pull` gave one watcher, for the next ones."""

    next_revision: int
    is_dirty: bool
    is_compacted: bool
    bodies: list[bytes]  # responses without header and watch id: their fields follow those in the wire's order
    whole: dict[int, list[Encoded]] = field(default_factory=dict)  # by watch id


class Feed:
    """The responses for watchers of a store between two of its changes; `clear` it at each."""

    def __init__(self) -> None:
        self._shares: dict[tuple[object, ...], _Share] = {}
        self._bytes = 0

    def clear(self) -> None:
        """The store has changed."""
        self._shares.clear()
        self._bytes = 0

    def responses(
        self, store: Store, watcher: Watcher, header: Callable[[], etcd_pb2.ResponseHeader]
    ) -> list[Encoded] | None:
        """The next responses for `watcher`, and moves it on; None when its position is compacted."""
        place = watcher.place
        share = self._shares.get(place)
        if share is None:
            share = _share(store, watcher)
            if self._bytes > SHARED_BYTES_MAX:
                self.clear()
            self._shares[place] = share
            self._bytes += sum(map(len, share.bodies))
        if share.is_compacted:
            return None
        watcher.next_revision, watcher.is_dirty, watcher.has_begun = share.next_revision, share.is_dirty, True
        found = share.whole.get(watcher.id)
        if found is None:
            start = WatchResponse(header=header(), watch_id=watcher.id).SerializeToString()
            found = share.whole[watcher.id] = [Encoded(start + body) for body in share.bodies]
        return found


def _share(store: Store, watcher: Watcher) -> _Share:
    found = pull(store, watcher)
    events = [_event(store, version, watcher.prev_kv) for version in found.events]
    pieces = list(_fragments(events)) if watcher.fragment else [events] if events else []
    bodies = [
        WatchResponse(events=piece, fragment=number < len(pieces)).SerializeToString()
        for number, piece in enumerate(pieces, 1)
    ]
    return _Share(watcher.next_revision, watcher.is_dirty, found.is_compacted, bodies)


def _event(store: Store, version: Version, prev_kv: bool) -> mvcc_pb2.Event:
    kind = mvcc_pb2.Event.PUT if version.value is not None else mvcc_pb2.Event.DELETE
    event = mvcc_pb2.Event(type=kind, kv=to_kv(version))
    if prev_kv:
        previous = store.previous(version)
        if previous is not None:
            event.prev_kv.CopyFrom(to_kv(previous))
    return event


def _fragments(events: list[Any]) -> Iterator[list[Any]]:
    piece: list[Any] = []
    size = 0
    for event in events:
        bytes_of = event.ByteSize()
        if piece and size + bytes_of > BYTES_MAX:
            yield piece
            piece, size = [], 0
        piece.append(event)
        size += bytes_of
    if piece:
        yield piece
