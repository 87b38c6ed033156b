"""How a cluster is: what its actors say, or, while Ray cannot be asked, which of their ports answer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykube.cluster import addresses, placement, ray_nodes
from raykube.cluster import state as cluster_state
from raykube.cluster.plan import Placement, plan


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """A row of `raykube status`."""

    component: str
    machine: str
    address: str
    pid: int  # 0: unknown
    role: str
    healthy: bool
    detail: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What `raykube status` shows."""

    name: str
    server: str
    components: list[ComponentStatus]
    store_members: int
    store_healthy: int
    note: str

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
    note = ""
    found: dict[str, dict[str, Any]] = {}
    try:
        with placement.connected(state, data_dir):
            state = placement.handed_over(state) or state
            found = placement.statuses(plan(state, data_dir))
    except OSError as error:
        note = str(error)
    placements = plan(state, data_dir)
    rows = [_row(item, found.get(item.name), bool(note)) for item in placements]
    store = [row for row in rows if row.component == "kv"]
    return ClusterStatus(
        name=state.name,
        server=next(iter(addresses.api_servers(state).values())),
        components=rows,
        store_members=len(store),
        store_healthy=sum(row.healthy for row in store),
        note=note,
    )


_PORTS = {
    "kv": addresses.KV_CLIENT_PORT,
    "apiserver": addresses.APISERVER_PORT,
    "router": addresses.API_PORT,
    "controller-manager": addresses.CONTROLLER_MANAGER_PORT,
    "scheduler": addresses.SCHEDULER_PORT,
    "kubelet": addresses.KUBELET_PORT,
    "kube-proxy": addresses.KUBE_PROXY_HEALTH_PORT,
}


def _row(item: Placement, found: dict[str, Any] | None, ray_is_down: bool) -> ComponentStatus:
    port = _PORTS.get(item.component)
    address = f"{item.machine.address}:{port}" if port else item.machine.address
    if found is not None:
        return ComponentStatus(
            item.component, item.machine.name, address, found["pid"], found["role"], found["healthy"], found["detail"]
        )
    # Ray cannot be asked: whether the component's port answers is still worth knowing.
    listening = ray_is_down and port is not None and ray_nodes.answers(address, 0.5)
    detail = "port answers" if listening else "no answer"
    return ComponentStatus(item.component, item.machine.name, address, 0, "", listening, detail)
