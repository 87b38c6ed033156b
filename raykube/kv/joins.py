"""How an added member begins: it asks who it is, and its data directory is noted in the log before it has promised
anything, so that another directory under the same id is never taken for it.

    etcdctl member add ─▶ membership has an id for these addresses
    raykube kv --initial-cluster-state=existing ─▶ Join(addresses, incarnation) ─▶ the leader puts the incarnation into
    the log (`Attributes`) ─▶ id, cluster, addresses of the others ─▶ the member's own log begins

A second member is added to one that then cannot commit anything alone, so there is no log to note it in. Then the first
one's word is enough: nothing is decided without the first one, so that it has all that the second may have lost.
"""

import asyncio
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykube.kv.core.identity import address_of
from raykube.kv.core.mvcc.machine import Command, commands
from raykube.kv.core.raft.membership import Member as Record
from raykube.kv.core.raft.messages import EntryKind
from raykube.kv.core.replica import Replica
from raykube.kv.member import Member
from raykube.kv.recall import Replaced
from raykube.kv.wal import sync_folder
from raykube.pb import raft_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel

PEER = raft_pb2.DESCRIPTOR.services_by_name["Peer"]
INCARNATION = "incarnation"
ASK_TIMEOUT_S = 8.0
JOIN_TIMEOUT_S = 30.0
RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class Joined:
    """What a member that was added learns from the others."""

    cluster: int
    member: int
    addresses: dict[int, tuple[str, ...]]


def incarnation(data_dir: Path) -> int:
    """The number of this data directory, 0 while none was drawn. Raises OSError."""
    try:
        return int((data_dir / INCARNATION).read_text(), 16)
    except FileNotFoundError:
        return 0


def begin(data_dir: Path) -> int:
    """As `incarnation`, and draws one if there is none."""
    if found := incarnation(data_dir):
        return found
    number = secrets.randbits(63) + 1
    temporary = data_dir / f"{INCARNATION}.tmp"
    with open(temporary, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(f"{number:016x}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(data_dir / INCARNATION)
    sync_folder(data_dir)
    return number


async def join(request: Any, others: list[str], tls: Tls | None) -> Joined:
    """Asks the members at `others`, peer URLs, until one that leads answers. Raises ValueError, saying why not."""
    if not others:
        raise ValueError("--initial-cluster names no other member: --initial-cluster-state=existing needs one to ask")
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    reason = ""
    while time.monotonic() < deadline:
        for url in others:
            try:
                answer = await _ask(url, request, tls)
            except RpcError as error:
                if error.code in (Code.FAILED_PRECONDITION, Code.PERMISSION_DENIED):  # for good
                    raise ValueError(error.message) from None
                reason = f"{url}: {error.message}"
                continue
            addresses = {member.id: tuple(member.peer_urls) for member in answer.members}
            return Joined(answer.cluster_id, answer.member_id, addresses)
        await asyncio.sleep(RETRY_S)
    raise ValueError(f"no member of --initial-cluster let this one join within {JOIN_TIMEOUT_S:g} s ({reason})")


async def _ask(url: str, request: Any, tls: Tls | None) -> Any:
    scheme, address = address_of(url)
    channel = Channel(address, tls if scheme == "https" else None)
    try:
        return await channel.stub(PEER).Join(request, timeout=ASK_TIMEOUT_S)
    finally:
        await channel.close()


def noted(replica: Replica, member: int) -> int | None:
    """The incarnation with which `member` began, as far as this log says, applied or not; None: it never did."""
    known = replica.machine.attributes.get(member)
    if known is not None:
        return int(known.incarnation)
    log = replica.node.log
    for entry in log.entries[max(0, replica.applied - log.base) :]:
        if entry.kind == EntryKind.NORMAL and entry.data:
            for _, command, body in commands(entry.data):
                if command == Command.ATTRIBUTES:
                    attributes = raft_pb2.Attributes.FromString(body)
                    if attributes.member_id == member:
                        return int(attributes.incarnation)
    return None


class Joins:
    """The other side: answers members that were added."""

    def __init__(self, member: Member) -> None:
        self._member = member

    async def answer(self, request: Any) -> Any:
        """Raises RpcError: FAILED_PRECONDITION for good, UNAVAILABLE: ask another one, or later."""
        node = self._member.replica.node
        found = self._find(request)
        if node.membership.voters == {self._member.id, found.id}:
            self._vouch_alone(found, request)
        else:
            if not node.is_leader:
                raise RpcError(Code.UNAVAILABLE, "etcdserver: not leader")
            await self._member.read()
            await self._note(self._find(request), request)
        members = raft_pb2.Membership.FromString(node.membership.encode()).members
        return raft_pb2.JoinResponse(cluster_id=self._member.cluster_id, member_id=found.id, members=members)

    def _find(self, request: Any) -> Record:
        urls = set(request.peer_urls)
        for record in self._member.replica.node.membership.members:
            if set(record.peer_urls) == urls:
                return record
        shown = ",".join(sorted(urls))
        raise RpcError(
            Code.FAILED_PRECONDITION if self._member.replica.node.is_leader else Code.UNAVAILABLE,
            f"the cluster has no member at {shown}: add it first (etcdctl member add --peer-urls={shown})",
        )

    def _check(self, record: Record, incarnation: int | None, request: Any) -> None:
        if incarnation is not None and incarnation != request.incarnation:
            raise RpcError(
                Code.FAILED_PRECONDITION,
                str(Replaced(record.id)),
            )

    async def _note(self, record: Record, request: Any) -> None:
        known = noted(self._member.replica, record.id)
        self._check(record, known, request)
        if known is None:
            self._check_promises(record, request)
            attributes = raft_pb2.Attributes(
                member_id=record.id,
                name=request.name,
                client_urls=request.client_urls,
                incarnation=request.incarnation,
            )
            await self._member.propose(Command.ATTRIBUTES, attributes.SerializeToString())
            self._check(record, noted(self._member.replica, record.id), request)

    def _vouch_alone(self, record: Record, request: Any) -> None:
        """With two voters, whatever was ever decided since the second was added has this member's promise in it."""
        replica = self._member.replica
        known = noted(replica, record.id)
        self._check(record, known, request)
        if known is None:
            self._check_promises(record, request)

    def _check_promises(self, record: Record, request: Any) -> None:
        """Refuses one that nobody noted and that acknowledged entries to this leader: a founder which just began."""
        progress = self._member.replica.node.progress.get(record.id)
        if progress is not None and progress.match:
            self._check(record, 0, request)
