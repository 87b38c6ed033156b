"""The cluster's record in the store: one key beside the objects, replaced by compare-and-swap.

It survives what the store survives, which is the loss of any machine, the operator's included. It holds no secret: what
certificates are made from lies in files on every machine with a member of the store, as kubeadm keeps it on those of
its control plane; whoever reads those machines' disks as root has the store's Secrets too. So a backup of the store has
no authority over the cluster.
"""

from raykube.client.kv import KvClient
from raykube.cluster import machines
from raykube.cluster.state import ClusterState
from raykube.pb import batch_pb2
from raykube.rpc import Code, RpcError

KEY = b"/raykube/cluster"


class Conflict(Exception):
    """Another writer was first: read again."""


async def read(client: KvClient, *, serializable: bool = False) -> tuple[ClusterState | None, int]:
    """The record and its revision; None and 0 when there is none. `serializable`: as the asked member has it.

    Raises RpcError.
    """
    found = (await client.range(KEY, serializable=serializable)).kvs
    if not found:
        return None, 0
    return ClusterState.model_validate_json(found[0].value), found[0].mod_revision


async def write(client: KvClient, state: ClusterState, revision: int) -> ClusterState:
    """Replaces the record of `revision` (0: none) by `state`, a generation later, and returns that.

    Raises Conflict, RpcError.
    """
    new = state.model_copy(update={"generation": state.generation + 1})
    value = new.model_dump_json().encode()
    (result,) = await client.write([batch_pb2.Write(key=KEY, value=value, expected_revision=revision)])
    if not result.applied:
        raise Conflict
    return new


async def merge(client: KvClient, wished: ClusterState, attempts: int = 5) -> ClusterState:
    """Brings what the operator wishes into the record, made if there is none; returns it. Raises RpcError."""
    for _ in range(attempts):
        found, revision = await read(client)
        new = wished if found is None else machines.joined(found, wished)
        if new == found:
            return found
        try:
            return await write(client, new, revision)
        except Conflict:
            continue
    raise RpcError(Code.ABORTED, "the cluster's record changes all the time")
