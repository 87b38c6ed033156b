"""One member's disk: the shipped log and snapshot files on a simulated file system, and what is truly durable on it."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from random import Random

from raykube.kv.core import wal_codec
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.image import Restored
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot, Write
from raykube.kv.core.recovery import Recovered
from raykube.kv.disk import open_disk
from raykube.kv.snapshot_files import SUFFIX, WRONG_SUFFIX, SnapshotFiles
from raykube.kv.stored_snapshot import Arriving
from raykube.kv.wal import Wal
from tests.sim.filesystem import File, PowerCut, SimFs
from tests.sim.paths import SimPath

CLUSTER = 7
PIECE_BYTES = 700
CALLS_OF_A_WRITE = 12  # about as many as the longest write makes


class SimDisk:
    """Survives its member's crashes."""

    def __init__(self, member: int, rng: Random) -> None:
        self._meta = wal_codec.Meta(CLUSTER, member, salt=4711 + member % 97)
        self._rng = rng
        self.fs = SimFs(rng)
        self.path = SimPath(self.fs, ())
        self.terms: dict[int, int] = {}  # index → term of what is durable; 0 where a snapshot stands for it
        self.rotten: dict[int, int] = {}  # the same of what was durable, and is no more since bits flipped
        self.damage: list[tuple[File, int, int]] = []  # flipped bits that may still hurt: file, byte, mask
        self.flips = 0  # ever
        self._wal: Wal | None = None
        self._files: SnapshotFiles | None = None

    # ---- the member's

    def open(self, founders: Membership | None) -> Recovered:
        """Reads all back, as a member does when it starts. Raises ValueError, OSError."""
        self._wal, self._files, recovered = open_disk(self.path, self._meta, founders)  # type: ignore[arg-type]
        before = self.terms
        had = self.rotten | before if self.damage else {}
        self.terms = {}
        if recovered.snapshot is not None:
            index = recovered.snapshot.index
            if self.fs.is_synced(self.path / "snap"):
                self.terms = dict.fromkeys(range(1, index + 1), 0)
            else:  # it has no durable name yet; then the log behind it is still there
                self.terms = {known: term for known, term in before.items() if known <= index}
        if self.fs.is_synced(self.path / "wal"):
            self.terms.update((entry.index, entry.term) for entry in recovered.entries)
        self.rotten = {index: term for index, term in had.items() if index not in self.terms}
        return recovered

    def kept(self, index: int, term: int) -> bool:
        """Whether it has the entry, or had it until its disk rotted."""
        return self.terms.get(index) in (term, 0) or self.rotten.get(index) in (term, 0)

    def persist(self, write: Write) -> Restored | None:
        """What `Member` does in its worker thread. Raises OSError."""
        assert self._wal is not None and self._files is not None
        restored = None
        if write.snapshot is not None:
            self._files.adopt(write.snapshot)
            restored = image.restore(write.snapshot.data)
        self._wal.append(write)
        self._note_durable(write)
        return restored

    def _note_durable(self, write: Write) -> None:
        # The truth about durability is the file system's, whatever the log believes.
        if not self.fs.is_synced(self.path / "wal"):
            return
        if write.snapshot is not None and self.fs.is_synced(self.path / "snap"):
            self.terms = dict.fromkeys(range(1, write.snapshot.index + 1), 0)
        if write.entries:
            first = write.entries[0].index
            for index in [index for index in self.terms if index >= first]:
                del self.terms[index]
            self.terms.update((entry.index, entry.term) for entry in write.entries)

    def save(self, snapshot: Snapshot, body: Iterable[bytes]) -> None:
        """A snapshot file. Raises OSError."""
        assert self._files is not None
        self._files.save(snapshot, body)

    def purge(self, index: int) -> None:
        """Drops segments that a snapshot at `index` makes superfluous."""
        assert self._wal is not None
        self._wal.purge(index)

    def snapshot_file(self, snapshot: Snapshot) -> bytes:
        """The bytes that go to a follower. Raises OSError."""
        assert self._files is not None
        return self._files.path(snapshot).read_bytes()

    def receive(self, data: bytes) -> tuple[Arriving, Snapshot]:
        """A file that another member sent, durable. Raises ValueError when it is not whole, OSError."""
        assert self._files is not None
        arriving = self._files.arrive()
        try:
            for start in range(0, len(data) or 1, PIECE_BYTES):
                arriving.write(data[start : start + PIECE_BYTES])
            return arriving, arriving.finish()
        except Exception:
            arriving.drop()
            raise

    # ---- faults

    def crash(self, work: Write | None, saving: tuple[Snapshot, Iterator[bytes]] | None, has_lost_power: bool) -> None:
        """The process, or the machine, dies in the middle of what it does: at any call of it, or right behind it."""
        for do in (
            lambda: self.persist(work) if work is not None else None,
            lambda: self.save(*saving) if saving is not None else None,
        ):
            self.fs.cut_after = self._rng.randrange(CALLS_OF_A_WRITE)
            with suppress(PowerCut, OSError):
                do()
            self.fs.power_on()
        if has_lost_power:
            self.fs.power_cut()

    def crash_in_open(self, founders: Membership | None) -> None:
        """The machine dies while the member starts."""
        self.fs.cut_after = self._rng.randrange(CALLS_OF_A_WRITE)
        with suppress(PowerCut, OSError, ValueError):
            self.open(founders)
        self.fs.power_cut()

    def fill(self, bytes_free: int) -> None:
        """From now on there is room for no more than this."""
        self.fs.bytes_max = self.fs.bytes_used + bytes_free

    def empty(self) -> None:
        self.fs.bytes_max = 1 << 40

    def give_descriptors(self) -> None:
        self.fs.has_descriptors = True

    def flip(self, where: str = "") -> None:
        """Flips a bit at rest. Not in the log's last frame: that cannot be told from a torn one."""
        candidates = []
        files = self.fs.files()
        segments = [name for name, _ in files if name.endswith(".wal")]
        for name, file in files:
            end = len(file.cache)
            if segments and name == segments[-1]:
                end = file.cache.rfind(wal_codec.MAGIC.to_bytes(4, "little"))
            if end > 0 and not file.is_dirty and name.startswith(where) and name.endswith((".wal", ".snap")):
                candidates.append((file, end))
        if not candidates:
            return
        file, end = self._rng.choice(candidates)
        place, mask = self._rng.randrange(end), 1 << self._rng.randrange(8)
        self.damage.append((file, place, mask))
        self.flips += 1
        _flip(file, place, mask)

    def repair(self) -> None:
        """Takes back what `flip` did: a person restored the file, under its name."""
        self.give_descriptors()
        for file, place, mask in self.damage:
            if place < len(file.cache):
                _flip(file, place, mask)
        self.damage.clear()
        for path in (self.path / "snap").glob(f"*{WRONG_SUFFIX}"):
            path.rename(path.with_suffix(SUFFIX))


def _flip(file: File, place: int, mask: int) -> None:
    file.cache[place] ^= mask
    file.durable = bytes(file.cache)
