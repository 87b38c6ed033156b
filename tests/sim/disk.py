"""A disk that forgets what was not synced: the shipped log format, in memory."""

from random import Random

from raykube.kv.core import recovery, snapshot_codec, wal_codec
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot, Write

SEGMENT_BYTES_MAX = 4096
META = wal_codec.Meta(7, 0)


class SimDisk:
    """One member's log segments and snapshot files. Survives crashes; `crash` takes away what was not synced."""

    def __init__(self, member: int) -> None:
        self._meta = wal_codec.Meta(META.cluster_id, member)
        self.segments: list[tuple[int, bytearray]] = []  # first index, content
        self.snapshots: dict[tuple[int, int], bytes] = {}
        self.terms: dict[int, int] = {}  # index → term of what is durable, for the checks
        self.hard_state = (0, 0)
        self._synced = 0  # bytes of the last segment
        self._crc = 0
        self._head = b""

    def recover(self, founders: Membership | None) -> recovery.Recovered:
        """Reads all back, as a member does when it starts."""
        replay = wal_codec.replay(
            [(f"segment {number}", bytes(data)) for number, (_, data) in enumerate(self.segments)]
        )
        if self.segments:
            del self.segments[-1][1][replay.kept_bytes :]
        self._crc = replay.crc
        if replay.meta is not None:
            self._head = wal_codec.encode_records(replay.hard_state, (), None)
        newest = None
        for key in sorted(self.snapshots, reverse=True):
            newest = snapshot_codec.decode(self.snapshots[key])[1]
            break
        last = replay.entries[-1].index if replay.entries else (replay.base or (0, 0))[0]
        self._roll(last + 1)
        if founders is not None and recovery.is_blank(replay):
            first = recovery.founding_write(founders)
            self.write(first)
            self.sync(first)
            recovery.add(replay, first)
        recovered = recovery.recover(replay, newest)
        if recovered.marker is not None:
            self._log(recovered.marker)
            self._synced = len(self.segments[-1][1])
        # A crash may have left more on the disk than was synced; what a member has read back counts.
        self.terms = dict.fromkeys(range(1, newest.index + 1), 0) if newest is not None else {}
        self.terms.update((entry.index, entry.term) for entry in recovered.entries)
        return recovered

    def _roll(self, first_index: int) -> None:
        self.segments.append((first_index, bytearray()))
        self._append(wal_codec.encode_meta(self._meta) + self._head)
        self._synced = len(self.segments[-1][1])

    def _append(self, payload: bytes) -> None:
        data, self._crc = wal_codec.frame(payload, self._crc)
        self.segments[-1][1].extend(data)

    def write(self, write: Write) -> None:
        """Hands a write to the disk; it may be lost until `sync`."""
        if write.snapshot is not None:
            self.save(write.snapshot, [write.snapshot.data])
        self._log(write)

    def _log(self, write: Write) -> None:
        if len(self.segments[-1][1]) >= SEGMENT_BYTES_MAX and write.entries:
            self._roll(write.entries[0].index)
        if write.hard_state is not None:
            self._head = wal_codec.encode_records(write.hard_state, (), None)
        self._append(wal_codec.encode_records(write.hard_state, write.entries, write.snapshot))

    def sync(self, write: Write) -> None:
        """The write is durable."""
        self._synced = len(self.segments[-1][1])
        if write.snapshot is not None:
            self.terms = dict.fromkeys(range(1, write.snapshot.index + 1), 0)
        if write.entries:
            first = write.entries[0].index
            for index in [index for index in self.terms if index >= first]:
                del self.terms[index]
            self.terms.update((entry.index, entry.term) for entry in write.entries)

    def save(self, snapshot: Snapshot, body: list[bytes]) -> None:
        """A snapshot file: whole or not there, as rename makes it."""
        self.snapshots[snapshot.index, snapshot.term] = b"".join(snapshot_codec.encode(snapshot, META.cluster_id, body))
        for old in sorted(self.snapshots)[:-2]:
            del self.snapshots[old]

    def purge(self, index: int) -> None:
        """Drops segments that a snapshot at `index` makes superfluous."""
        while len(self.segments) > 1 and self.segments[1][0] <= index + 1:
            del self.segments[0]

    def crash(self, rng: Random) -> None:
        """Of what was not synced, the disk keeps a part, perhaps with holes of zeros."""
        last = self.segments[-1][1]
        if len(last) <= self._synced:
            return
        kept = rng.randrange(self._synced, len(last) + 1)
        del last[kept:]
        if kept > self._synced and rng.random() < 0.3:
            start = rng.randrange(self._synced, kept)
            last[start:kept] = bytes(kept - start)
