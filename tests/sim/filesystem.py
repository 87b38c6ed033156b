"""A file system in memory, under the shipped log and snapshot code: it forgets what was not synced, and fails to order.

    SimFs(rng)          one member's disk; paths.py has its paths, open files, and `os`
    fs.cut_after = n    the power goes at the n-th call from now: PowerCut
    fs.power_cut()      what was not synced is lost, torn or kept, as the generator says

Contents are durable after fsync or fdatasync of the file, names after fsync of their folder; names survive a power cut
in the order in which they changed, as a journal keeps them, contents in any order, sector by sector. A failed sync has
dropped the contents that it should have written, and the next one says nothing of it, as Linux does; a file's size is
the journal's, and still to be written.
"""

import errno
import os
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.sim.paths import SimPath

SECTOR_BYTES = 32


class PowerCut(BaseException):
    """The machine lost its power in the middle of a call. Not an Exception: nobody can handle it."""


class File:
    """What an inode holds: what a reader sees, and what would survive a power cut."""

    __slots__ = ("cache", "durable", "is_dirty", "lost")

    def __init__(self) -> None:
        self.cache = bytearray()
        self.durable = b""
        self.is_dirty = False
        self.lost: list[tuple[int, int]] = []  # what failed syncs dropped: readers see it, the disk never got it

    @property
    def is_durable(self) -> bool:
        return not self.is_dirty and not self.lost


class Folder:
    """Names: as a reader sees them, as they would survive, and the changes in between, oldest first."""

    __slots__ = ("changes", "durable", "names")

    def __init__(self) -> None:
        self.names: dict[str, File | Folder] = {}
        self.durable: dict[str, File | Folder] = {}
        self.changes: list[dict[str, File | Folder]] = []  # the names after each change


def _difference(old: bytes, new: bytearray) -> tuple[int, int]:
    """From the first to behind the last byte in which two contents differ."""
    padded = old.ljust(len(new), b"\0")
    start = next((place for place in range(len(new)) if new[place] != padded[place]), len(new))
    end = next((place for place in range(len(new), start, -1) if new[place - 1] != padded[place - 1]), start)
    return start, max(end, len(new) if len(new) > len(old) else end)


class SimFs:
    """One disk."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.root = Folder()
        self.cut_after = -1
        self.sync_errors = 0  # so many of the next syncs fail with EIO
        self.bytes_max = 1 << 40
        self.has_descriptors = True  # without, nothing more is opened or listed
        self.calls = 0
        self._is_off = False

    # ---- faults

    def call(self) -> None:
        """Before each call: the power may go here."""
        self.calls += 1
        if self._is_off:
            raise PowerCut
        if self.cut_after >= 0:
            if self.cut_after == 0:
                self._is_off = True
                raise PowerCut
            self.cut_after -= 1

    def power_on(self) -> None:
        self._is_off = False
        self.cut_after = -1

    def power_cut(self) -> None:
        """What was not synced is gone, or not, or a part of it."""
        self._cut_folder(self.root)
        self.power_on()

    def _cut_folder(self, folder: Folder) -> None:
        if folder.changes:
            kept = self._rng.randrange(len(folder.changes) + 1)
            folder.names = dict(folder.changes[kept - 1] if kept else folder.durable)
            folder.durable = dict(folder.names)
            folder.changes.clear()
        for item in folder.names.values():
            if isinstance(item, Folder):
                self._cut_folder(item)
            elif not item.is_durable:
                self._tear(item)

    def _tear(self, file: File) -> None:
        rng = self._rng
        old, new = file.durable, bytes(file.cache)
        length = rng.randrange(min(len(old), len(new)), max(len(old), len(new)) + 1)
        # Up to `length` the new sectors are there, but for holes: in the order in which the disk liked to write them.
        holes = rng.choice([0.0, 0.0, 0.3])
        image = bytearray(new[:length] if length <= len(new) else new + old[len(new) : length])
        for start in range(0, length, SECTOR_BYTES):
            if holes and rng.random() < holes:
                end = min(start + SECTOR_BYTES, length)
                image[start:end] = old[start:end].ljust(end - start, b"\0")
        for start, end in file.lost:
            end = min(end, len(image))
            image[start:end] = old[start:end].ljust(max(0, end - start), b"\0")
        file.cache, file.durable, file.is_dirty = image, bytes(image), False
        file.lost.clear()

    def is_synced(self, folder: "SimPath") -> bool:
        """Whether all that is in `folder` would survive a power cut now (what was removed may come back)."""
        found = self.folder(folder.parts)
        return all(
            found.durable.get(name) is item and (not isinstance(item, File) or item.is_durable)
            for name, item in found.names.items()
            if not name.endswith(".tmp")  # of no use yet
        )

    def files(self) -> list[tuple[str, File]]:
        """All files, by path."""

        def walk(prefix: str, folder: Folder) -> Any:
            for name, item in sorted(folder.names.items()):
                if isinstance(item, Folder):
                    yield from walk(f"{prefix}{name}/", item)
                else:
                    yield prefix + name, item

        return list(walk("", self.root))

    @property
    def bytes_used(self) -> int:
        return sum(len(file.cache) for _, file in self.files())

    # ---- calls

    def find(self, parts: tuple[str, ...]) -> "File | Folder | None":
        at: File | Folder | None = self.root
        for part in parts:
            at = at.names.get(part) if isinstance(at, Folder) else None
        return at

    def folder(self, parts: tuple[str, ...]) -> Folder:
        found = self.find(parts)
        if not isinstance(found, Folder):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(parts))
        return found

    def file(self, parts: tuple[str, ...]) -> File:
        found = self.find(parts)
        if not isinstance(found, File):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/".join(parts))
        return found

    def set_name(self, parts: tuple[str, ...], item: "File | Folder | None", drop: str = "") -> None:
        """A name appears, changes or goes; with `drop`, another of the same folder goes in the same change."""
        self.call()
        folder = self.folder(parts[:-1])
        if item is None:
            del folder.names[parts[-1]]
        else:
            folder.names[parts[-1]] = item
        if drop:
            del folder.names[drop]
        folder.changes.append(dict(folder.names))

    def need_descriptor(self) -> None:
        if not self.has_descriptors:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def create(self, parts: tuple[str, ...]) -> File:
        if len(self.files()) and self.bytes_used >= self.bytes_max:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file = File()
        self.set_name(parts, file)
        return file

    def write(self, file: File, position: int, data: bytes) -> int:
        """Writes at `position`, or as much as there is room for; nothing at all is ENOSPC."""
        self.call()
        if self.bytes_max < 1 << 40:
            room = max(0, self.bytes_max - self.bytes_used) + max(0, len(file.cache) - position)
            if not room and data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            data = data[:room]
        if position > len(file.cache):
            file.cache.extend(bytes(position - len(file.cache)))
        file.cache[position : position + len(data)] = data
        if file.lost:
            end = position + len(data)  # what is written again is no longer lost
            file.lost = [
                piece
                for start, stop in file.lost
                for piece in ((start, min(stop, position)), (max(start, end), stop))
                if piece[0] < piece[1]
            ]
        file.is_dirty = True
        return len(data)

    def allocate(self, file: File, size: int) -> None:
        """Makes `file` that long, all zeros behind what it has; ENOSPC when there is no room for it."""
        missing = size - len(file.cache)
        if missing > 0 and self.bytes_max < 1 << 40 and self.bytes_used + missing > self.bytes_max:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.truncate(file, max(size, len(file.cache)))

    def truncate(self, file: File, size: int) -> None:
        self.call()
        del file.cache[size:]
        file.lost = [(start, min(end, size)) for start, end in file.lost if start < size]
        file.cache.extend(bytes(size - len(file.cache)))
        file.is_dirty = True

    def sync(self, item: "File | Folder") -> None:
        self.call()
        if self.sync_errors > 0:
            self.sync_errors -= 1
            if isinstance(item, File):
                # The pages count as clean now, though they were never written.
                start, end = _difference(item.durable, item.cache)
                if item.is_dirty and start < end:
                    item.lost.append((start, end))
                item.is_dirty = len(item.durable) != len(item.cache)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if isinstance(item, Folder):
            item.durable = dict(item.names)
            item.changes.clear()
        elif item.is_dirty:
            image = bytearray(item.cache)
            for start, end in item.lost:
                end = min(end, len(image))
                image[start:end] = item.durable[start:end].ljust(max(0, end - start), b"\0")
            item.durable, item.is_dirty = bytes(image), False
