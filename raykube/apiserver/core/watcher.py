"""A watcher: the changes of a selection, waiting to be sent.

A watcher whose queue is full is closed, never waited for: its client watches again from where it was.
"""

from collections import deque
from collections.abc import Callable, Sequence

from raykube.apiserver.core.fields import Fields
from raykube.apiserver.core.item import Change, Item
from raykube.apiserver.core.selecting import Selection

ADDED = "ADDED"
MODIFIED = "MODIFIED"
DELETED = "DELETED"


# A queue is bounded in bytes as well, at this average: a thousand versions of an object of a megabyte are few changes.
_BYTES_PER_CHANGE = 8 << 10
_BYTES_MAX = 10_000 * _BYTES_PER_CHANGE
_DRAINED_BYTES_MAX = 4 << 20  # about; who takes them may be held up while he has them


class Watcher:
    """The changes of a selection, waiting to be sent."""

    __slots__ = ("_bytes", "_bytes_max", "_fields", "_forget", "_limit", "_queue", "closed", "selection", "wake")

    def __init__(
        self,
        fields: Fields,
        selection: Selection,
        limit: int,
        forget: "Callable[[Watcher], None]",
        backlog: Sequence[Change] = (),
    ) -> None:
        """`limit`: changes that may wait. Those of the `backlog`, which were there before it, are not counted."""
        self._fields = fields
        self._forget = forget  # told when it closes
        self._queue = deque(backlog)
        self._bytes = sum(change.size for change in backlog)
        self._limit = limit + len(backlog)
        self._bytes_max = min(limit * _BYTES_PER_CHANGE, _BYTES_MAX) + self._bytes
        self.selection = selection
        self.closed = False
        self.wake: Callable[[], None] = _nobody

    def offer(self, change: Change) -> None:
        """Queues a change, or closes the watcher when it is too slow."""
        if self.closed:
            return
        queue = self._queue
        waiting = len(queue)
        if waiting and (waiting >= self._limit or self._bytes > self._bytes_max):
            self.close()
            return
        queue.append(change)
        self._bytes += change.size
        if not waiting:
            self.wake()

    def drain(self, most: int = 1000) -> list[tuple[str, Item]]:
        """Takes what is queued, as (event type, item): the selection's view of at most `most` changes."""
        queue = self._queue
        events: list[tuple[str, Item]] = []
        size = 0
        for _ in range(min(most, len(queue))):
            change = queue.popleft()
            self._bytes -= change.size
            seen = view(self._fields, self.selection, change)
            if seen is not None:
                events.append(seen)
                size += len(seen[1].data)
                if size > _DRAINED_BYTES_MAX:
                    break
        return events

    @property
    def pending(self) -> int:
        return len(self._queue)

    def close(self) -> None:
        """Ends the watch; what is queued is dropped (the client resumes from the last event it got)."""
        if not self.closed:
            self.closed = True
            self._queue.clear()
            self._forget(self)
            self.wake()


def _nobody() -> None:
    """The wake of a watcher that nobody waits for."""


def view(fields: Fields, selection: Selection, change: Change) -> tuple[str, Item] | None:
    """How a change looks through a selection: an object that leaves it is DELETED, one that enters it ADDED."""
    before, after = change.before, change.after
    if selection.is_plain:
        if after is None:
            return (DELETED, change.departed()) if before and selection.matches(fields, before) else None
        if not selection.matches(fields, after):
            return None
        return (ADDED if before is None else MODIFIED), after
    was = before is not None and selection.matches(fields, before)
    if after is not None and selection.matches(fields, after):
        return (MODIFIED if was else ADDED), after
    return (DELETED, change.departed()) if was else None
