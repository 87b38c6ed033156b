"""Changes of how many hollow machines a cluster has: actors that played others end, Nodes that nobody plays go."""

import asyncio
import re
from http import HTTPStatus
from pathlib import Path

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.failures import error_of_body
from raykube.cluster import addresses, placement
from raykube.cluster.plan import plan
from raykube.cluster.state import ClusterState
from raykube.hollow.core.machine import SET_LABEL
from raykube.rpc import Tls

NODES = builtin("v1", "Node")
COMPONENT = "hollow"
OURS = re.compile(r"hollow-\d+")  # sets that the plan makes
STOP_TIMEOUT_S = 4.0


def end_others(state: ClusterState, data_dir: Path) -> None:
    """Ends the actors that play other machines than the plan has for them; `up` starts those of the plan."""
    wanted = {item.name: item for item in plan(state, data_dir) if item.component == COMPONENT}
    running = [name for name in placement.names() if name.startswith(f"{COMPONENT}-")]
    if not running:
        return
    statuses = placement.statuses(list(wanted.values()))
    same = {name for name, item in wanted.items() if statuses.get(name, {}).get("role") == role_of(item.services[0][1])}
    placement.end_softly([name for name in running if name not in same], STOP_TIMEOUT_S)


def role_of(flags: dict[str, object]) -> str:
    """What a share says of itself: which machines it plays."""
    first, nodes = int(str(flags["first_node"])), int(str(flags["nodes"]))
    return f"{first}-{first + nodes - 1}"


def forget(state: ClusterState, tls: Tls) -> None:
    """Deletes the hollow Nodes that no share plays; their pods go with them. Raises OSError; the next try deletes the
    rest."""
    try:
        asyncio.run(_forget(state, tls))
    except ApiError as error:
        raise OSError(f"some Nodes of hollow machines that are no more are left: {error}; try again") from None


async def _forget(state: ClusterState, tls: Tls) -> None:
    kept = {}
    for share in range(1, state.hollow_actors + 1):
        first, end = addresses.hollow_numbers(state, share)
        kept[f"hollow-{share}"] = (first, end)
    async with ApiClient(addresses.grpc_servers(state), tls) as client:
        found, _ = await client.list(NODES, label_selector=SET_LABEL)
        surplus = [node for node in found if not _is_kept(node, kept)]
        results = await client.write([operations.delete(NODES, "", node["metadata"]["name"]) for node in surplus])
    for result in results:
        if result.code >= 400 and result.code != HTTPStatus.NOT_FOUND:
            raise error_of_body(result.body, result.code)


def _is_kept(node: dict[str, object], kept: dict[str, tuple[int, int]]) -> bool:
    metadata = node["metadata"]
    assert isinstance(metadata, dict)
    name_of_set = metadata["labels"][SET_LABEL]
    if not OURS.fullmatch(name_of_set):
        return True  # of a `raykube hollow` that somebody runs by hand
    first, end = kept.get(name_of_set, (0, 0))
    number = metadata["name"].rpartition("-")[2]
    return number.isdigit() and first <= int(number) < end
