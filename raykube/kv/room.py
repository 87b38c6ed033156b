"""How much room the disk of a data directory has. It is seen to be full before it is used up, and to be free again."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

BYTES_KEPT = 64 << 20  # what is kept back for what must be written all the same: deletions, elections, snapshots
CHECK_S = 1.0


class Room:
    """The disk of one member. `shortage` is the error number for which the log has no next segment, or 0; `retry` has
    it look again."""

    def __init__(self, data_dir: Path, shortage: Callable[[], int], retry: Callable[[], None]) -> None:
        self._folders = (data_dir, data_dir / "wal")  # the log's may be on another disk
        self._shortest = data_dir
        self._shortage = shortage
        self._retry = retry
        self._checked_at = float("-inf")
        self.bytes_free = 0
        self.snapshot_bytes_free = 0  # on the disk of snapshots, which may be another one than the log's
        self.problem: OSError | None = None  # the disk could not be asked

    @property
    def is_full(self) -> bool:
        """Whether growth should be refused. Looks at the disk now and then."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            try:
                found = [(shutil.disk_usage(each).free, each) for each in self._folders]
                self.bytes_free, self._shortest = min(found)
                self.snapshot_bytes_free = found[0][0]
            except OSError as error:
                self.problem = error
            if self._shortage():
                self._retry()
        return self.bytes_free < BYTES_KEPT or self._shortage() != 0

    @property
    def lacks_space(self) -> bool:
        """Whether a smaller log would help: it may also be descriptors that are short."""
        return self.bytes_free < BYTES_KEPT or self._shortage() in (errno.ENOSPC, errno.EDQUOT)

    def __str__(self) -> str:
        if self.bytes_free < BYTES_KEPT:
            return (
                f"the disk of {self._shortest} has {self.bytes_free >> 20} MiB left, {BYTES_KEPT >> 20} are kept back"
            )
        # Meanwhile it may have come to an end.
        reason = os.strerror(self._shortage() or errno.ENOSPC)
        return f"no room for the next segment of the log in {self._folders[1]}: {reason}"
