"""What a restart makes of a log's bytes.

A frame is broken when it is cut, a checksum is wrong, or it does not follow the one before. A broken frame that
nothing whole follows, in the last segment, is a *torn tail*: a write that the crash interrupted, of which nobody was
told; it is cut off. Any other is *damage*: reading goes on with the next whole frame, as a new *run*. Only the last
run's entries count: what lies between two runs could have replaced what the first one says.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from raykube.kv.core import wal_codec
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState
from raykube.kv.core.wal_codec import Corrupt, Header, Meta, Place


@dataclass(slots=True)
class Replay:
    """What a log says. `entries` follow `base`; a snapshot record moved `base` there and emptied them."""

    meta: Meta | None = None
    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    base: tuple[int, int] | None = None  # index, term of the last snapshot that replaced the log
    tail: Place = field(default_factory=Place)  # the end of the log that this member answers for
    membership: Membership | None = None  # the last one that any whole frame says
    damage: list[str] = field(default_factory=list)  # places, for a person to read
    crc: int = 0
    kept_bytes: int = 0  # of the last segment; what is behind is a torn tail, or unused
    last_frame: int = 0  # where the last whole frame of the last segment begins


def replay(segments: Sequence[tuple[str, bytes]]) -> Replay:
    """Reads named segments in order. Raises Corrupt, naming the segment and the place."""
    return replay_lazily([(name, lambda data=data: data) for name, data in segments])  # type: ignore[misc]


def replay_lazily(segments: Sequence[tuple[str, Callable[[], bytes]]]) -> Replay:
    """As `replay`, with one segment in memory at a time."""
    meta = next((found for _, read in segments if (found := wal_codec.read_meta(read())) is not None), None)
    reader = _Reader(meta)
    for number, (name, read) in enumerate(segments):
        reader.read(name, read(), is_last=number == len(segments) - 1)
    return reader.state


class _Reader:
    def __init__(self, meta: Meta | None) -> None:
        self.state = Replay(meta=meta)
        self._salt = meta.salt if meta is not None else 0
        self._is_first = True

    def read(self, name: str, data: bytes, is_last: bool) -> None:
        """Reads a segment to its end."""
        state = self.state
        state.last_frame = offset = 0
        used = len(data.rstrip(b"\0"))  # allocated, and never written
        while offset < used:
            header = self._whole_at(data, offset)
            if header is None or (not self._is_first and header.previous != state.crc):
                if header is None:
                    behind = self._next(data, offset)
                    # Only a log's very first head may be torn: behind it nothing was promised.
                    if state.meta is None and (not is_last or used > wal_codec.FIRST_HEAD_BYTES):
                        raise Corrupt(
                            f"{name} is damaged at its beginning, and no other segment says whose it is: remove "
                            "this member from its cluster and add it again, or begin again with a backup"
                        )
                    if behind is None and is_last:
                        break
                    state.damage.append(f"{name} at byte {offset}")
                    if behind is None:
                        self._begin_run()
                        break
                    offset = behind
                    header = self._whole_at(data, offset)
                    assert header is not None
                else:
                    state.damage.append(f"before {name}, byte {offset}")
                self._begin_run()
            self._is_first = False
            state.crc = header.crc
            self._replay_payload(data, header, name)
            state.last_frame, offset = offset, header.end
        state.kept_bytes = offset

    def _begin_run(self) -> None:
        self.state.entries = []
        self.state.base = None
        self._is_first = True

    def _whole_at(self, data: bytes, offset: int) -> Header | None:
        header = (
            wal_codec.header_at(data, offset, 0, wal_codec.HEAD_MAGIC)
            if offset == 0
            else wal_codec.header_at(data, offset, self._salt)
        )
        return header if header is not None and wal_codec.is_whole(data, header) else None

    def _next(self, data: bytes, offset: int) -> int | None:
        """Where the next whole frame behind `offset` begins."""
        position = data.find(wal_codec.MAGIC_BYTES, offset + 1)
        while position >= 0:
            if self._whole_at(data, position) is not None:
                return position
            position = data.find(wal_codec.MAGIC_BYTES, position + 1)
        return None

    def _replay_payload(self, data: bytes, header: Header, name: str) -> None:
        offset, end = header.start, header.end
        try:
            while offset < end:
                kind, length = wal_codec.RECORD.unpack_from(data, offset)
                offset += wal_codec.RECORD.size
                if offset + length > end:
                    raise Corrupt(f"{name}: a record reaches beyond its frame at byte {offset}")
                self._replay_record(kind, data[offset : offset + length], name)
                offset += length
        except struct.error as error:
            raise Corrupt(f"{name}: a record is cut at byte {offset}: {error}") from None

    def _replay_record(self, kind: int, body: bytes, name: str) -> None:
        state = self.state
        if kind == wal_codec.ENTRY:
            term, index, entry_kind = wal_codec.ENTRY_BODY.unpack_from(body)
            entry = Entry(term, index, entry_kind, body[wal_codec.ENTRY_BODY.size :])
            _add(state, entry, name)
        elif kind == wal_codec.HARD_STATE:
            state.hard_state = HardState(*wal_codec.HARD_STATE_BODY.unpack(body))
        elif kind == wal_codec.META:
            if Meta(*wal_codec.META_BODY.unpack(body)) != state.meta:
                raise Corrupt(f"{name} belongs to another member or cluster than the segment before it")
        elif kind == wal_codec.SNAPSHOT:
            index, term = wal_codec.SNAPSHOT_BODY.unpack(body)
            state.base = (index, term)
            state.entries.clear()
        elif kind == wal_codec.TAIL:
            state.tail = Place(*wal_codec.TAIL_BODY.unpack(body))
        else:
            raise Corrupt(f"{name}: unknown record type {kind}: written by a newer version")


def _add(state: Replay, entry: Entry, name: str) -> None:
    entries = state.entries
    if entries and entry.index <= entries[-1].index:
        # It replaces all from its index on; that may be before the first, when purged segments held what comes between.
        del entries[max(0, entry.index - entries[0].index) :]
    elif entries and entry.index != entries[-1].index + 1:
        raise Corrupt(f"{name}: entry {entry.index} follows {entries[-1].index}")
    entries.append(entry)
    if entry.kind == EntryKind.CONFIG:
        state.membership = Membership.decode(entry.data)


def entries_after(state: Replay, index: int, term: int) -> list[Entry]:
    """The log behind a snapshot at (index, term). Raises Corrupt when entries between them are missing.

    If the log has another entry at `index`, or ends before it, the snapshot came from a leader and replaced it all.
    """
    entries = state.entries
    if not entries or entries[-1].index < index:
        return []
    first = entries[0].index
    if first > index + 1:
        raise Corrupt(f"the log begins at {first}, but the newest readable snapshot is at {index}")
    if first <= index and entries[index - first].term != term:
        return []
    return entries[index + 1 - first :]
