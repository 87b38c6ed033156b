"""The recent changes of one resource, as far back as its bounds let it remember.

(oldest ......................... newest]
  ^ changes up to here are forgotten: watches and exact lists below it answer Expired
"""

from bisect import bisect_right

from raykube.apiserver.core.item import Change


class Expired(Exception):
    """The revision asked for is older than the history that is kept."""

    def __init__(self, revision: int, oldest: int) -> None:
        super().__init__(f"too old resource version: {revision} ({oldest})")
        self.revision = revision
        self.oldest = oldest


class History:
    """Bounded by a number of changes, and by the bytes of the states that they replaced."""

    def __init__(self, changes_max: int, bytes_max: int) -> None:
        self.changes_max = changes_max
        self.bytes_max = bytes_max
        self.oldest = 0  # changes after this revision are here
        self._changes: list[Change] = []
        self._first = 0  # index of the oldest change kept: the list is cut now and then, not shifted each time
        self._bytes = 0

    def restart(self, revision: int) -> None:
        """Forgets everything up to `revision`."""
        self._changes.clear()
        self._first = self._bytes = 0
        self.oldest = revision

    def append(self, change: Change) -> None:
        self._changes.append(change)
        self._bytes += _weight(change)
        while len(self._changes) - self._first > self.changes_max or self._bytes > self.bytes_max:
            dropped = self._changes[self._first]
            self._first += 1
            self._bytes -= _weight(dropped)
            self.oldest = dropped.revision
        if self._first > 1024 and self._first * 2 > len(self._changes):
            del self._changes[: self._first]
            self._first = 0

    def since(self, revision: int) -> list[Change]:
        """The changes after `revision`, in order. Raises Expired."""
        if revision < self.oldest:
            raise Expired(revision, self.oldest)
        start = bisect_right(self._changes, revision, lo=self._first, key=_revision_of)
        return self._changes[start:]


def _revision_of(change: Change) -> int:
    return change.revision


def _weight(change: Change) -> int:
    """Bytes that only the history keeps alive: about the state that was replaced."""
    return 200 + (len(change.before.data) if change.before is not None else 0)
