"""All that readers and watchers of a store may ask for, as of one moment.

To take a picture is quick; to look through a million histories for what it shows is not, and is left to whoever wants
to know, in any thread, while the store goes on. What the store writes meanwhile is newer than the picture, and passed
over. What it gives back to memory would be missed: `Store.sweep` waits for `is_complete`.
"""

from raykube.kv.core.mvcc.digest import SUM_MASK, checksum
from raykube.kv.core.mvcc.version import Version


class Picture:
    """`recent`: the versions since the compaction at `horizon`, in order of (mod, sub).

    `histories` are the store's own; `held` is the sum of the checksums of all that is in them and in `recent`.
    """

    def __init__(self, histories: list[list[Version]], horizon: int, recent: list[Version], held: int) -> None:
        self.recent = recent
        self.is_complete = False
        self._histories = histories
        self._horizon = horizon
        self._held = held
        self._base: list[Version] = []

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

    def _complete(self) -> None:
        if self.is_complete:
            return
        horizon = self._horizon
        for history in self._histories:
            version = history[0]
            if version.mod >= horizon:
                continue
            if len(history) > 1:
                position = 0
                while position + 1 < len(history) and history[position + 1].mod <= horizon:
                    if history[position].mod < horizon:
                        self._held -= checksum(history[position])
                    position += 1
                version = history[position]
            if version.mod < horizon:
                if version.value is not None:
                    self._base.append(version)
                else:
                    self._held -= checksum(version)
        self._histories = []
        self.is_complete = True
