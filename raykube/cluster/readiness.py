"""Whether the machines of a new cluster are Nodes that take pods: asked of the apiservers, as any client would."""

import asyncio
import time

from raykube.api import resources
from raykube.api.errors import ApiError
from raykube.client.api import ApiClient
from raykube.hollow.core.machine import SET_LABEL
from raykube.rpc import RpcError, Tls

POLL_S = 0.2


def _is_ready(node: dict[str, object]) -> bool:
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


async def _count_ready(client: ApiClient, wanted: int, timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    nodes = resources.by_kind("", "v1", "Node")
    assert nodes is not None  # a row of the table
    ready = 0
    while time.monotonic() < deadline:
        try:
            listed, _ = await client.list(nodes, label_selector=f"!{SET_LABEL}")  # hollow ones say so themselves
            ready = sum(_is_ready(node) for node in listed)
        except (ApiError, RpcError, OSError):
            ready = 0
        if ready >= wanted:
            return ready
        await asyncio.sleep(POLL_S)
    raise OSError(f"{ready} of {wanted} nodes are Ready after {timeout_s:.0f} s: see 'raykube status'")


def wait_for_nodes(grpc_servers: list[str], tls: Tls, wanted: int, timeout_s: float) -> int:
    """Waits until `wanted` Nodes are Ready; returns how many are. Raises OSError at the time-out."""

    async def run() -> int:
        client = ApiClient(grpc_servers, tls)
        try:
            return await _count_ready(client, wanted, timeout_s)
        finally:
            await client.close()

    return asyncio.run(run())
