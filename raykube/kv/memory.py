"""What the interpreter does with memory, made fit for a process that holds millions of small objects.

The garbage collector stops the process while it walks all objects: a third of a second with a million versions, and
every few seconds under load; long enough to look dead. A store's data has no cycles, so what was applied is taken out
of its sight (`gc.freeze`, which costs nothing). With it goes what else lives at that moment: cycles among that are
looked for now and then, on a member that nobody waits for.

What compaction gives back, the C library keeps, scattered over half-empty pages. It is asked to return what is whole.
"""

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path

from raykube.kv.member import Member

FREEZE_REVISIONS = 5000  # between two freezes: so many objects are walked in a few milliseconds
CHECK_S = 60.0
FULL_S = 3600.0  # between two looks at everything
FULL_OBJECTS_LEADER_MAX = 100_000  # so many do not hold up even a leader
TRIM_S = 600.0  # returning pages and asking for them again is not free either
TRIM_BYTES_MIN = 256 << 20
IDLE_REVISIONS = 10_000  # in CHECK_S: it writes so little
_PAGE_BYTES = 4096


def resident_bytes() -> int:
    """This process' memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


def _trimmer() -> Callable[[int], int] | None:
    """glibc's malloc_trim; None with another C library."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda pad: int(trim(pad))


class Memory:
    """Looks after one member's process."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._frozen_at = 0
        self._full_at = time.monotonic()
        self._trim_at = 0.0
        self._checked_at = 0  # revision
        self._trim = _trimmer()
        self._timer: asyncio.TimerHandle | None = None
        self._trimming: asyncio.Task[int] | None = None
        member.on_applied.append(self._on_applied)

    def start(self) -> None:
        """What is loaded so far stays."""
        gc.collect()
        gc.freeze()
        self._later()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(CHECK_S, self._check)

    def _on_applied(self) -> None:
        revision = self._member.store.revision
        if not 0 <= revision - self._frozen_at < FREEZE_REVISIONS:
            self._frozen_at = revision
            gc.freeze()

    def _check(self) -> None:
        now = time.monotonic()
        if now - self._full_at >= FULL_S and self._may_pause():
            self._full_at = now
            gc.unfreeze()
            gc.collect()
            gc.freeze()
        unused = resident_bytes() - 2 * self._member.store.bytes_stored
        revision = self._member.store.revision
        is_idle, self._checked_at = revision - self._checked_at < IDLE_REVISIONS, revision
        # Whoever needs memory waits meanwhile; and a busy store would ask for it again at once.
        if self._trim is not None and unused >= TRIM_BYTES_MIN and now >= self._trim_at and is_idle:
            self._trim_at = now + TRIM_S
            self._trimming = asyncio.create_task(asyncio.to_thread(self._trim, 0))
        self._later()

    def _may_pause(self) -> bool:
        node = self._member.replica.node
        return (
            gc.get_freeze_count() <= FULL_OBJECTS_LEADER_MAX or not node.is_leader or len(node.membership.voters) == 1
        )
