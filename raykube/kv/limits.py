"""What the store refuses before it reaches the log: requests too large, growth beyond the quota, a disk almost full.

No bound needs a person to lift it: once there is room again, writes are taken again. A full disk of any member that
answers the leader is the group's: everybody refuses, as a write that only the others can take would leave the group
with no member to spare. What is kept back of the disk (`room.py`) is for what must be written all the same.
"""

from collections.abc import Callable

from raykube.kv.member import Member
from raykube.rpc import Code, RpcError


class Admission:
    """The bounds of one member."""

    def __init__(self, member: Member, quota_bytes: int) -> None:
        self._member = member
        self.quota_bytes = quota_bytes

    @property
    def is_full(self) -> bool:
        """Whether writes are refused for want of room."""
        return bool(self._member.store.bytes_stored >= self.quota_bytes or self.full_member)

    @property
    def full_member(self) -> int:
        """The id of a member whose disk is full; 0: none."""
        member = self._member
        if member.room.is_full:
            return member.id
        full_member = member.replica.node.full_member
        return 0 if full_member == member.id else full_member  # what the node knows of this disk is a tick old

    @property
    def shortage(self) -> str:
        """Why writes are refused for want of room, "" while they are not."""
        full_member = self.full_member
        if full_member == self._member.id:
            return f"no space: {self._member.room}"
        if full_member:
            return f"no space: the disk of member {full_member:x} is full"
        return "mvcc: database space exceeded" if self.is_full else ""

    def check_size(self, size: int, size_max: int) -> None:
        """Raises RpcError when a request is larger than the store takes."""
        if size > size_max:
            raise RpcError(Code.INVALID_ARGUMENT, "etcdserver: request is too large")

    def check_write(self, size: int, size_max: int, adds: Callable[[], bool] = lambda: True) -> None:
        """As `check_size`, and raises RpcError when there is no room.

        `adds()` says whether the request may put something. It is asked when there is no room: what only deletes makes
        some, and is taken.
        """
        self.check_size(size, size_max)
        if not self.is_full or not adds():
            return
        if shortage := self.shortage:  # it may have come to an end meanwhile
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"etcdserver: {shortage}")
