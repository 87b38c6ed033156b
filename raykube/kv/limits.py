"""What the store refuses before it reaches the log: requests too large, and growth beyond the quota.

The quota needs no person: once compaction has made room, writes are taken again.
"""

from raykube.kv.member import Member
from raykube.rpc import Code, RpcError


class Admission:
    """The bounds of one member."""

    def __init__(self, member: Member, quota_bytes: int) -> None:
        self._member = member
        self.quota_bytes = quota_bytes

    @property
    def is_full(self) -> bool:
        return bool(self._member.store.bytes_stored >= self.quota_bytes)

    def check_size(self, size: int, size_max: int) -> None:
        """Raises RpcError when a request is larger than the store takes."""
        if size > size_max:
            raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: request is too large")

    def check_write(self, size: int, size_max: int) -> None:
        """As `check_size`, and raises RpcError when the store is full."""
        self.check_size(size, size_max)
        if self.is_full:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
