"""All that readers and watchers of a store may ask for, as of one moment.

To take a picture is quick; to look through a million histories for what it shows is not, and is left to whoever wants
to know, in any thread, while the store goes on. What the store writes meanwhile is newer than the picture, and passed
over. What it gives back to memory would be missed: `Store.sweep` does nothing until the picture is complete, or
forgotten by `forget`. (A reference that is gone says so too, but who can tell when an exception lets go of one?)
"""

from collections.abc import Iterator
from itertools import chain

from isal.isal_zlib import crc32

from raykube.kv.core.mvcc.digest import SUM_MASK, checksum
from raykube.kv.core.mvcc.version import Version


class Picture:
    """For one user at a time. `recent`: the versions since the compaction at `horizon`, in order of (mod, sub).

    `histories` are the store's own lists; `held` is the sum of the checksums of the versions in them and of those in
    `recent` that are not.
    """

    def __init__(self, histories: list[list[Version]], horizon: int, recent: list[Version], held: int) -> None:
        self.recent = recent
        self.needs_histories = True
        self._histories = histories
        self._horizon = horizon
        self._held = held
        self._base: list[Version] = []
        self._is_complete = False

    @property
    def base(self) -> list[Version]:
        """The newest version of each key that is before the compaction, in no order."""
        self._complete()
        return self._base

    @property
    def held(self) -> int:
        """What the checksums of all versions must add up to, by what was written and not by what is there."""
        self._complete()
        return self._held & SUM_MASK

    def hash(self, last: int) -> int:
        """A checksum of all versions up to revision `last`, which must not be before the compaction."""
        value = 0
        for version in chain(self.base, self._until(last)):
            # A sum, as no thread may sort a million versions: Python stands still meanwhile. Of squares, as sums of a
            # CRC may agree where two values were exchanged.
            value += checksum(version) ** 2
        return crc32(b"%d %d %d" % (last, self._horizon, value))

    def _until(self, last: int) -> Iterator[Version]:
        for version in self.recent:
            if version.mod > last:
                return
            yield version

    def forget(self) -> None:
        """Nobody looks at it any more, though a thread may still be at it. Idempotent."""
        self.needs_histories = False

    def _complete(self) -> None:
        if self._is_complete:
            return
        horizon, held, base = self._horizon, self._held, []
        for history in self._histories:
            version = history[0]
            if version.mod >= horizon:
                continue
            if len(history) > 1:
                position = 0
                while position + 1 < len(history) and history[position + 1].mod <= horizon:
                    if history[position].mod < horizon:
                        held -= checksum(history[position])
                    position += 1
                version = history[position]
            if version.mod < horizon:
                if version.value is not None:
                    base.append(version)
                else:
                    held -= checksum(version)
        self._base, self._held, self._histories, self._is_complete = base, held, [], True
        self.needs_histories = False
