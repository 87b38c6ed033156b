"""How a cluster is: what its actors say through Ray, or, where it cannot tell, what components say themselves."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykube.client.kv import KvClient
from raykube.cluster import addresses, healthpages, placement, ray_nodes, record
from raykube.cluster import state as cluster_state
from raykube.cluster.healthpages import Said
from raykube.cluster.plan import Folders, Placement, plan
from raykube.cluster.state import ClusterState
from raykube.cluster.wish import is_own
from raykube.rpc import RpcError

STORE_TIMEOUT_S = 4.0


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """A row of `raykube status`."""

    component: str
    machine: str
    address: str
    pid: int  # 0: unknown
    role: str
    healthy: bool | None  # None: unknown
    detail: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What `raykube status` shows."""

    name: str
    server: str
    components: list[ComponentStatus]
    store_wanted: int
    store_members: int
    store_healthy: int
    note: str
    stopped: bool = False  # as `down` leaves a cluster: nothing runs, and nothing is to be brought back

    @property
    def failures_tolerated(self) -> int:
        """How many more store members may fail before writes stop; -1 when they have stopped."""
        quorum = self.store_members // 2 + 1
        return self.store_healthy - quorum if self.store_healthy >= quorum else -1


def status(data_dir: Path) -> ClusterStatus | None:
    """How the cluster in `data_dir` is; None when there is none. Works, with less to say, while Ray's head is dead."""
    state = cluster_state.load(data_dir)
    if state is None:
        return None
    # Whether a Ray of it is, as far as is known here.
    note, known = "", bool(state.gcs_address) if state.local else not _is_cleared(state, data_dir)
    found: dict[str, dict[str, Any]] = {}
    actors: Collection[str] | None = None
    folders = _certificates(state, data_dir)
    try:
        with placement.connected(state, data_dir):
            state = placement.handed_over(state) or state
            actors = placement.names()
            found = placement.statuses(plan(state, data_dir))
    except OSError as error:
        note = str(error)
    if actors is None or not any(name.startswith(placement.STORE_PREFIX) for name in found):
        state = _record(state, folders)
    placements = plan(state, data_dir)
    said = healthpages.ask([item for item in placements if item.name not in found], folders)
    rows = [
        _row(item, found[item.name]) if item.name in found else _asked_itself(item, said[item.name], actors)
        for item in placements
    ]
    if note and any(row.healthy for row in rows):
        note = f"Ray's head at {state.gcs_address} does not answer: until it is back, nothing is replaced"
    store = [row for row in rows if row.component == "kv"]
    own = [machine.address for machine in state.machines if is_own(machine.address)]
    return ClusterStatus(
        name=state.name,
        server=next(iter(addresses.api_servers(state, own).values())),
        components=rows,
        store_wanted=state.members_wanted,
        store_members=len(store),
        store_healthy=sum(row.healthy is True for row in store),
        note=note,
        # `down` forgets the Ray of a local cluster; the Ray of others runs on without an actor of it, or goes too.
        stopped=not any(one.healthy for one in said.values()) and ((actors is None and not known) or actors == set()),
    )


def _is_cleared(state: ClusterState, data_dir: Path) -> bool:
    """Whether `down` was at work on this computer: each actor's spec lies here until what it left is taken away."""
    mine = [Folders(data_dir, state, machine).specs for machine in state.machines if is_own(machine.address)]
    return bool(mine) and all(specs.is_dir() and not any(specs.iterdir()) for specs in mine)


def answering(state: ClusterState, data_dir: Path) -> bool:
    """Whether any component of the cluster says that it is healthy. Asks no Ray."""
    folders = _certificates(state, data_dir)
    said = healthpages.ask(plan(_record(state, folders), data_dir), folders)
    return any(one.healthy for one in said.values())


def _certificates(state: ClusterState, data_dir: Path) -> list[Path]:
    """Folders that may have the cluster's certificates here, the operator's first."""
    return [data_dir / "pki", *(Folders(data_dir, state, machine).pki for machine in state.machines)]


def _row(item: Placement, found: dict[str, Any]) -> ComponentStatus:
    keys = ("pid", "role", "healthy", "detail")
    return ComponentStatus(item.component, item.machine.name, item.health_address, *(found[key] for key in keys))


def _asked_itself(item: Placement, said: Said, actors: Collection[str] | None) -> ComponentStatus:
    """`actors`: the names that Ray knows; None: it cannot be asked."""
    healthy, detail = said.healthy, said.detail
    if actors is not None and item.name not in actors:
        healthy, detail = False, f"{detail}; Ray knows no actor of it: run 'raykube up'"
    return ComponentStatus(item.component, item.machine.name, item.health_address, 0, said.role, healthy, detail)


def _record(state: ClusterState, folders: Sequence[Path]) -> ClusterState:
    """The cluster as the store knows it, or, if that does not answer, as it is known here."""
    servers = [f"{machine.address}:{addresses.KV_CLIENT_PORT}" for machine in state.control_plane]
    servers = [server for server in servers if ray_nodes.answers(server, 0.5)]
    if not servers:
        return state

    async def read() -> ClusterState | None:
        client = KvClient(servers, healthpages.pair("apiserver-etcd-client", folders))
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return (await record.read(client))[0]
        finally:
            await client.close()

    try:
        return asyncio.run(read()) or state
    except (RpcError, OSError, ValueError):  # a time-out is an OSError
        return state
