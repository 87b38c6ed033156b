"""How much room the disk of a data directory has. It is seen to be full before it is used up, and to be free again."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

BYTES_KEPT = 64 << 20  # what is kept back for what must be written all the same: deletions, elections, snapshots
CHECK_S = 1.0


class Room:
    """The disk of one member. `is_log_short` tells whether the log found no room for its next segment; `retry` has it
    look again."""

    def __init__(self, data_dir: Path, is_log_short: Callable[[], bool], retry: Callable[[], None]) -> None:
        self._folders = (data_dir, data_dir / "wal")  # the log's may be on another disk
        self._shortest = data_dir
        self._is_log_short = is_log_short
        self._retry = retry
        self._checked_at = float("-inf")
        self.bytes_free = 0
        self.problem: OSError | None = None  # the disk could not be asked

    @property
    def is_full(self) -> bool:
        """Whether growth should be refused. Looks at the disk now and then."""
        now = time.monotonic()
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            try:
                self.bytes_free, self._shortest = min((shutil.disk_usage(each).free, each) for each in self._folders)
            except OSError as error:
                self.problem = error
            if self._is_log_short():
                self._retry()
        return self.bytes_free < BYTES_KEPT or self._is_log_short()

    def __str__(self) -> str:
        if self.bytes_free < BYTES_KEPT:
            return (
                f"the disk of {self._shortest} has {self.bytes_free >> 20} MiB left, {BYTES_KEPT >> 20} are kept back"
            )
        return f"the disk of {self._folders[1]} has no room for the log's next segment"
