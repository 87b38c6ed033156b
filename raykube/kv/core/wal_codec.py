"""The write-ahead log as bytes: frames of records, chained by checksum, and what a restart makes of them.

    segment = frame*          frame = magic u32 | length u32 | previous u32 | crc u32 | payload
    payload = record*         record = type u8 | length u32 | body

`crc` is over `previous` and the payload; `previous` is the crc of the frame before it, across segments, so that no
frame can be missing or out of place. A frame is one write of the group commit. A frame is broken when it is cut, or its
checksum is wrong. A broken frame that nothing valid follows, in the last segment, is a *torn tail*: a write that the
crash interrupted, of which nobody was told; it is cut off. Any other is *corruption*: the member must not start on it.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from zlib import crc32

from raykube.kv.core.raft.messages import Entry, HardState, Snapshot

MAGIC = 0x4C41574B
_FRAME = struct.Struct("<IIII")
_PREVIOUS = struct.Struct("<I")
_RECORD = struct.Struct("<BI")
_META = struct.Struct("<QQQ")
_HARD_STATE = struct.Struct("<QQQ")
_ENTRY = struct.Struct("<QQB")
_SNAPSHOT = struct.Struct("<QQ")
_MAGIC_BYTES = struct.pack("<I", MAGIC)

META, HARD_STATE, ENTRY, SNAPSHOT = 1, 2, 3, 4
HEAD_BYTES_MAX = 4096  # the first frame of a segment is shorter


class Corrupt(ValueError):
    """The log is damaged where no crash could have damaged it."""


@dataclass(frozen=True, slots=True)
class Meta:
    """Whose log this is: first record of every segment."""

    cluster_id: int
    member_id: int
    token: int = 0  # a hash of --initial-cluster-token: the ids above may have been given without regard to the flags


@dataclass(slots=True)
class Replay:
    """What a log says. `entries` follow `base`; a snapshot record moved `base` there and emptied them."""

    meta: Meta | None = None
    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)
    base: tuple[int, int] | None = None  # index, term of the last snapshot that replaced the log
    crc: int = 0
    kept_bytes: int = 0  # of the last segment; what is behind is a torn tail


def _record(kind: int, *parts: bytes) -> bytes:
    return b"".join((_RECORD.pack(kind, sum(map(len, parts))), *parts))


def encode_meta(meta: Meta) -> bytes:
    return _record(META, _META.pack(meta.cluster_id, meta.member_id, meta.token))


def encode_records(hard_state: HardState | None, entries: Iterable[Entry], snapshot: Snapshot | None) -> bytes:
    """The payload for one write, in the order in which it is replayed."""
    parts = []
    if snapshot is not None:
        parts.append(_record(SNAPSHOT, _SNAPSHOT.pack(snapshot.index, snapshot.term)))
    if hard_state is not None:
        parts.append(_record(HARD_STATE, _HARD_STATE.pack(*hard_state)))
    for term, index, kind, data in entries:
        parts.append(_RECORD.pack(ENTRY, _ENTRY.size + len(data)))
        parts.append(_ENTRY.pack(term, index, kind))
        parts.append(data)
    return b"".join(parts)


def frame(payload: bytes, previous: int) -> tuple[bytes, int]:
    """The frame for `payload` and its crc, which is the next frame's `previous`."""
    crc = crc32(payload, crc32(_PREVIOUS.pack(previous)))
    return _FRAME.pack(MAGIC, len(payload), previous, crc) + payload, crc


def _frame_at(data: bytes, offset: int) -> tuple[int, int, int] | None:
    """(end, previous, crc) of the valid frame at `offset`, or None."""
    if offset + _FRAME.size > len(data):
        return None
    magic, length, previous, crc = _FRAME.unpack_from(data, offset)
    start = offset + _FRAME.size
    if magic != MAGIC or start + length > len(data):
        return None
    if crc32(memoryview(data)[start : start + length], crc32(_PREVIOUS.pack(previous))) != crc:
        return None
    return start + length, previous, crc


def read_meta(segment: bytes) -> Meta | None:
    """Whose log a segment is part of, None when its beginning is not whole."""
    if _frame_at(segment, 0) is None or segment[_FRAME.size] != META:
        return None
    return Meta(*_META.unpack_from(segment, _FRAME.size + _RECORD.size))


def _has_frame_behind(data: bytes, offset: int) -> bool:
    position = data.find(_MAGIC_BYTES, offset + 1)
    while position >= 0:
        if _frame_at(data, position) is not None:
            return True
        position = data.find(_MAGIC_BYTES, position + 1)
    return False


def replay(segments: Sequence[tuple[str, bytes]]) -> Replay:
    """Reads named segments in order. Raises Corrupt, naming the segment and the place."""
    state = Replay()
    is_first = True
    for number, (name, data) in enumerate(segments):
        offset = 0
        while offset < len(data):
            found = _frame_at(data, offset)
            if found is None or (not is_first and found[1] != state.crc):
                is_last = number == len(segments) - 1
                if found is not None or not is_last or _has_frame_behind(data, offset):
                    raise Corrupt(f"{name} is damaged at byte {offset}, before valid records: restore this member")
                break
            end, _, state.crc = found
            is_first = False
            _replay_payload(state, data, offset + _FRAME.size, end, name)
            offset = end
        state.kept_bytes = offset
    return state


def _replay_payload(state: Replay, data: bytes, offset: int, end: int, name: str) -> None:
    while offset < end:
        kind, length = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size
        if offset + length > end:
            raise Corrupt(f"{name}: a record reaches beyond its frame at byte {offset}")
        if kind == ENTRY:
            term, index, entry_kind = _ENTRY.unpack_from(data, offset)
            _replay_entry(state, Entry(term, index, entry_kind, data[offset + _ENTRY.size : offset + length]), name)
        elif kind == HARD_STATE:
            state.hard_state = HardState(*_HARD_STATE.unpack_from(data, offset))
        elif kind == META:
            meta = Meta(*_META.unpack_from(data, offset))
            if state.meta is not None and state.meta != meta:
                raise Corrupt(f"{name} belongs to another member or cluster than the segment before it")
            state.meta = meta
        elif kind == SNAPSHOT:
            state.base = _SNAPSHOT.unpack_from(data, offset)
            state.entries.clear()
        else:
            raise Corrupt(f"{name}: unknown record type {kind}: written by a newer version")
        offset += length


def _replay_entry(state: Replay, entry: Entry, name: str) -> None:
    entries = state.entries
    if entries and entry.index <= entries[-1].index:
        # It replaces all from its index on; that may be before the first, when purged segments held what comes between.
        del entries[max(0, entry.index - entries[0].index) :]
    elif entries and entry.index != entries[-1].index + 1:
        raise Corrupt(f"{name}: entry {entry.index} follows {entries[-1].index}")
    entries.append(entry)


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
