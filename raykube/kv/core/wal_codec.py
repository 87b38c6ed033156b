"""The write-ahead log as bytes: frames of records, chained by checksum.

    segment = head frame, frame*, zeros*
    frame = magic u32 | length u32 | previous u32 | crc u32 | check u32 | payload
    payload = record*          record = type u8 | length u32 | body

`crc` is over `previous` and the payload; `previous` is the crc of the frame before it, across segments, so that no
frame can be missing or out of place. `check` is over the four fields before it and the log's *salt*, a random number
that the head frames hold: bytes that look like a frame inside a client's value are none, and finding the next frame
behind damage costs no more than reading. A frame is one write of the group commit. A segment's head says whose log it
is, and repeats the hard state and the tail. The zeros are room that was allocated and is not used yet.

*Tail*: term and index of the last entry that this member answers for, in every frame. Whatever a restart finds
damaged, the last frame says what the member promised: how `wal_replay` and `recovery` go on.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from isal.isal_zlib import crc32

from raykube.kv.core.raft.messages import Entry, HardState, Snapshot, Write

MAGIC = 0x4C41574B
HEAD_MAGIC = 0x4844574B
MAGIC_BYTES = struct.pack("<I", MAGIC)
FRAME = struct.Struct("<IIIII")
RECORD = struct.Struct("<BI")
META_BODY = struct.Struct("<QQQI")
HARD_STATE_BODY = struct.Struct("<QQQ")
ENTRY_BODY = struct.Struct("<QQB")
SNAPSHOT_BODY = struct.Struct("<QQ")
TAIL_BODY = struct.Struct("<QQ")
_FIELDS = struct.Struct("<IIII")
_PREVIOUS = struct.Struct("<I")

META, HARD_STATE, ENTRY, SNAPSHOT, TAIL = 1, 2, 3, 4, 5
HEAD_BYTES_MAX = 4096  # the first frame of a segment is shorter
FIRST_HEAD_BYTES = FRAME.size + 2 * RECORD.size + META_BODY.size + TAIL_BODY.size  # a log's first frame


class Corrupt(ValueError):
    """The log is damaged where no crash could have damaged it."""


class Place(NamedTuple):
    """Where a log ends, in Raft's order: of two logs, the one whose place is greater is the newer."""

    term: int = 0
    index: int = 0  # type: ignore[assignment] # a tuple has a method of this name; places are not searched


@dataclass(frozen=True, slots=True)
class Meta:
    """Whose log this is: first record of every segment."""

    cluster_id: int
    member_id: int
    token: int = 0  # a hash of --initial-cluster-token: the ids above may have been given without regard to the flags
    salt: int = 0


class Header(NamedTuple):
    """Where a frame's payload is, and how it is chained."""

    start: int
    end: int
    previous: int
    crc: int


def _record(kind: int, *parts: bytes) -> bytes:
    return b"".join((RECORD.pack(kind, sum(map(len, parts))), *parts))


def encode_meta(meta: Meta) -> bytes:
    return _record(META, META_BODY.pack(meta.cluster_id, meta.member_id, meta.token, meta.salt))


def encode_hard_state(hard_state: HardState) -> bytes:
    return _record(HARD_STATE, HARD_STATE_BODY.pack(*hard_state))


def encode_records(
    hard_state: HardState | None, entries: Iterable[Entry], snapshot: Snapshot | None, last: bytes = b""
) -> bytes:
    """The payload for one write, in the order in which it is replayed; `last`: a record behind these."""
    parts = []
    if snapshot is not None:
        parts.append(_record(SNAPSHOT, SNAPSHOT_BODY.pack(snapshot.index, snapshot.term)))
    if hard_state is not None:
        parts.append(encode_hard_state(hard_state))
    for term, index, kind, data in entries:
        parts.append(RECORD.pack(ENTRY, ENTRY_BODY.size + len(data)))
        parts.append(ENTRY_BODY.pack(term, index, kind))
        parts.append(data)
    parts.append(last)
    return b"".join(parts)


def frame(payload: bytes, previous: int, salt: int, magic: int = MAGIC) -> tuple[bytes, int]:
    """The frame for `payload` and its crc, which is the next frame's `previous`."""
    crc = crc32(payload, crc32(_PREVIOUS.pack(previous)))
    fields = _FIELDS.pack(magic, len(payload), previous, crc)
    return b"".join((fields, _PREVIOUS.pack(crc32(fields, salt)), payload)), crc


def header_at(data: bytes, offset: int, salt: int, magic: int = MAGIC) -> Header | None:
    """The header of the frame at `offset`, None where none is; the payload may be cut or damaged."""
    start = offset + FRAME.size
    if start > len(data):
        return None
    found, length, previous, crc, check = FRAME.unpack_from(data, offset)
    if found != magic or crc32(memoryview(data)[offset : start - _PREVIOUS.size], salt) != check:
        return None
    return Header(start, start + length, previous, crc)


def is_whole(data: bytes, header: Header) -> bool:
    """Whether a frame's payload is as it was written."""
    return (
        header.end <= len(data)
        and crc32(memoryview(data)[header.start : header.end], crc32(_PREVIOUS.pack(header.previous))) == header.crc
    )


def read_meta(segment: bytes) -> Meta | None:
    """Whose log a segment is part of, None when its head is not whole."""
    header = header_at(segment, 0, 0, HEAD_MAGIC)
    if header is None or not is_whole(segment, header) or segment[header.start] != META:
        return None
    return Meta(*META_BODY.unpack_from(segment, header.start + RECORD.size))


class LogWriter:
    """Turns writes into frames, and knows what the head of a new segment must repeat."""

    def __init__(
        self, meta: Meta, crc: int = 0, hard_state: HardState | None = None, tail: Place | None = None
    ) -> None:
        self._meta = meta
        self._crc = crc
        self._hard_state = hard_state
        self._tail = tail or Place()
        self._is_lacking = False

    def hold_tail(self, tail: Place) -> None:
        """This member answers for a log up to `tail` and lost some of it: until it has as much again, it says so."""
        self._tail, self._is_lacking = tail, True

    def head(self) -> bytes:
        """The first frame of a new segment."""
        parts = [encode_meta(self._meta)]
        if self._hard_state is not None:
            parts.append(encode_hard_state(self._hard_state))
        parts.append(self._encode_tail())
        data, self._crc = frame(b"".join(parts), self._crc, 0, HEAD_MAGIC)
        return data

    def write(self, write: Write) -> bytes:
        """The frame for a write."""
        if write.hard_state is not None:
            self._hard_state = write.hard_state
        if write.entries:
            self._advance(Place(write.entries[-1].term, write.entries[-1].index))
        elif write.snapshot is not None:
            self._advance(Place(write.snapshot.term, write.snapshot.index))
        payload = encode_records(write.hard_state, write.entries, write.snapshot, self._encode_tail())
        data, self._crc = frame(payload, self._crc, self._meta.salt)
        return data

    def _advance(self, last: Place) -> None:
        if not self._is_lacking or last >= self._tail:
            self._tail, self._is_lacking = last, False

    def _encode_tail(self) -> bytes:
        return _record(TAIL, TAIL_BODY.pack(*self._tail))
