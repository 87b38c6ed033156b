"""A member that starts without data first asks the others whether they remember it.

Raft stands on members that keep what they promised. One whose data directory was emptied has forgotten its votes and
the entries it acknowledged: if it began anew under its old name, it could help to elect a leader that lacks what was
acknowledged to clients. So it does not start. When no other member answers, nobody can tell: it starts, and stops as
soon as a leader of before names entries that it no longer has (`Node._on_commit`).
"""

import asyncio
from pathlib import Path
from typing import Any

from raykube.kv.core.identity import address_of
from raykube.kv.core.raft.membership import Member, Membership
from raykube.kv.wal import segments
from raykube.pb import raft_pb2
from raykube.rpc import RpcError, Tls
from raykube.rpc.channel import Channel

ASK_TIMEOUT_S = 2.0
PEER = raft_pb2.DESCRIPTOR.services_by_name["Peer"]


class Removed(ValueError):
    """The others have removed this member, for good."""

    exit_code = 3  # of the process, so that what started it does not start it again

    def __init__(self, member: int) -> None:
        super().__init__(
            f"member {member:x} has been permanently removed from the cluster: to come back it needs an empty "
            "--data-dir, etcdctl member add, and --initial-cluster-state=existing"
        )


class Replaced(ValueError):
    """The others know this member with another data directory."""

    def __init__(self, member: int) -> None:
        super().__init__(
            f"member {member:x} has begun with another data directory: put all its files back, or remove it (etcdctl "
            f"member remove {member:x}) and add it again"
        )


def has_log(data_dir: Path) -> bool:
    """Whether the member of this directory has ever written to its log."""
    return bool(segments(data_dir / "wal"))


def refuse_lost_log(data_dir: Path) -> None:
    """Raises ValueError for a directory with snapshots and no log, before anything in it is changed."""
    if not has_log(data_dir) and any((data_dir / "snap").glob("*.snap")):
        raise ValueError(
            f"{data_dir} has snapshots and no log: put the files in wal/ back, or remove the member and add it again"
        )


async def refuse_if_remembered(data_dir: Path, own: Member, members: Membership, cluster: int, tls: Tls | None) -> None:
    """Raises ValueError, saying what to do, when another member knows the owner of this empty directory.

    That is `Removed` when it was a member once.
    """
    others = [member for member in members.members if member.id != own.id and member.peer_urls]
    request = raft_pb2.RecallRequest(cluster_id=cluster, member=own.id)
    answers = await asyncio.gather(*(_ask(other, request, tls) for other in others))
    if any(answer.is_removed for answer in answers):
        raise Removed(own.id)
    witnesses = [other.name for other, answer in zip(others, answers, strict=True) if answer.is_known]
    if witnesses:
        known = "knows" if len(witnesses) == 1 else "know"
        raise ValueError(
            f"{data_dir} has no log, but {', '.join(witnesses)} {known} {own.name} as a member that has data; an empty "
            "member under an old name could lose acknowledged writes. Put its files back, or make it a new member: "
            f"etcdctl member remove {own.id:x}, etcdctl member add, and start it with "
            "--initial-cluster-state=existing (meanwhile a majority of the members goes on without it)"
        )


async def _ask(other: Member, request: raft_pb2.RecallRequest, tls: Tls | None) -> Any:
    scheme, address = address_of(other.peer_urls[0])
    channel = Channel(address, tls if scheme == "https" else None)
    try:
        return await channel.stub(PEER).Recall(request, timeout=ASK_TIMEOUT_S)
    except RpcError:
        return raft_pb2.RecallResponse()  # not there, or of another cluster: it knows nothing of this one
    finally:
        await channel.close()
