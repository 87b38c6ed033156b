"""What the store refuses before it reaches the log: requests too large, growth beyond the quota, a disk almost full.

Neither bound needs a person to lift it: once there is room again, writes are taken again. What is kept back of the disk
is for what must be written all the same: deletions, elections, what other members' clients write. When even that is
used up, the log's write fails and the member stops (`wal.py`), with everything acknowledged safe on disk.
"""

import shutil
import time
from pathlib import Path

from raykube.kv.member import Member
from raykube.rpc import Code, RpcError

DISK_BYTES_KEPT = 64 << 20
DISK_CHECK_S = 1.0


class Admission:
    """The bounds of one member."""

    def __init__(self, member: Member, quota_bytes: int, data_dir: Path) -> None:
        self._member = member
        self._data_dir = data_dir
        self._disk_bytes_free = 0
        self._disk_checked_at = float("-inf")
        self.quota_bytes = quota_bytes

    @property
    def is_full(self) -> bool:
        """Whether writes are refused for want of room."""
        return bool(self._member.store.bytes_stored >= self.quota_bytes) or self._is_disk_full

    @property
    def _is_disk_full(self) -> bool:
        now = time.monotonic()
        if now - self._disk_checked_at >= DISK_CHECK_S:
            self._disk_checked_at = now
            self._disk_bytes_free = shutil.disk_usage(self._data_dir).free
        return self._disk_bytes_free < DISK_BYTES_KEPT

    def check_size(self, size: int, size_max: int) -> None:
        """Raises RpcError when a request is larger than the store takes."""
        if size > size_max:
            raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: request is too large")

    def check_write(self, size: int, size_max: int) -> None:
        """As `check_size`, and raises RpcError when there is no room."""
        self.check_size(size, size_max)
        if self._is_disk_full:
            raise RpcError(
                Code.RESOURCE_EXHAUSTED,
                f"etcdserver: no space: the disk of {self._data_dir} has {self._disk_bytes_free >> 20} MiB left, "
                f"and {DISK_BYTES_KEPT >> 20} are kept back",
            )
        if self.is_full:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
