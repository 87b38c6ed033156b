"""Brings a cluster up, takes it down, and says how it is.

`up` is idempotent and works from whatever it finds: a missing Ray node or actor is started, one that is there is left
alone. Whatever happens in the middle, `down` finds every process by its marker.
"""

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raykube.cluster import addresses, kubeconfig, pki, placement, processes, ray_nodes
from raykube.cluster import state as cluster_state
from raykube.cluster.plan import CONTROL_PLANE, PACKAGES, Placement, plan
from raykube.cluster.readiness import wait_for_nodes
from raykube.cluster.settings import Settings
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steps import Listener, step
from raykube.rpc.tls import Tls

SUBNETS = range(256)
READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 4.0
TITLES = {
    "kv": "Store",
    "apiserver": "Apiservers",
    "router": "Routers",
    "controller-manager": "Controller-managers",
    "scheduler": "Schedulers",
    "kubelet": "Kubelets",
    "kube-proxy": "Kube-proxies",
}


class ClusterError(ValueError):
    """The wish cannot be met; the message says what to do."""


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


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One `up` or `down` at a time on a data directory."""
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (data_dir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(f"another raykube command works on {data_dir}: wait for it to end") from None
        yield


def _port_is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def _free_subnet() -> int:
    for subnet in SUBNETS:
        address = addresses.api_address(subnet)
        if _port_is_free(address, addresses.API_PORT) and not ray_nodes.answers(f"{address}:{addresses.API_PORT}", 0.2):
            return subnet
    raise ClusterError(f"port {addresses.API_PORT} is in use on every address 127.*.0.1: stop a cluster first")


def _new_local_state(wish: Settings) -> ClusterState:
    subnet = _free_subnet()
    machines = [_local_machine(wish, subnet, index) for index in range(1, wish.machines + 1)]
    return ClusterState(name=wish.name, id=uuid.uuid4().hex, subnet=subnet, local=True, machines=machines)


def _local_machine(wish: Settings, subnet: int, index: int) -> Machine:
    return Machine(
        name=f"{wish.name}-{index}",
        address=addresses.local_machine_address(subnet, index),
        index=index,
        control_plane=index <= wish.control_plane,
    )


def _joined_state(wish: Settings, known: ClusterState | None) -> ClusterState:
    """The state of a cluster on Ray nodes that somebody else started."""
    if not ray_nodes.answers(wish.address):
        raise ClusterError(f"Ray at {wish.address} does not answer: give the address that 'ray start --head' printed")
    state = known or ClusterState(name=wish.name, id=uuid.uuid4().hex, subnet=0, local=False, machines=[])
    state.gcs_address = wish.address
    placement.connect(state, wish.data_dir)
    nodes = sorted(placement.live_nodes(), key=lambda node: "node:__internal_head__" not in node["Resources"])
    if len(nodes) < wish.control_plane:
        raise ClusterError(f"--control-plane {wish.control_plane} needs as many Ray nodes; {len(nodes)} are alive")
    used: set[str] = set()
    machines = []
    for index, node in enumerate(nodes, 1):
        name = _node_name(node, used)
        machines.append(
            Machine(
                name=name,
                address=node["NodeManagerAddress"],
                index=index,
                control_plane=index <= wish.control_plane,
                ray_node_id=node["NodeID"],
            )
        )
    state.machines = machines
    return state


def _node_name(node: dict[str, Any], used: set[str]) -> str:
    """A Node name for a Ray node: its host name, made unique by its address when two share it."""
    host = str(node.get("NodeManagerHostname") or "machine").lower().split(".")[0]
    name = "".join(letter if letter.isalnum() or letter == "-" else "-" for letter in host).strip("-") or "machine"
    if name in used:
        name = f"{name}-{node['NodeManagerAddress'].replace('.', '-').replace(':', '-')}"
    used.add(name)
    return name


def _resolve(wish: Settings) -> ClusterState:
    """The cluster that `wish` means: the one in the data directory, or a new one. Raises ClusterError."""
    known = cluster_state.load(wish.data_dir)
    if known is not None and known.name != wish.name:
        raise ClusterError(f"{wish.data_dir} belongs to cluster {known.name!r}: use another --data-dir")
    if wish.address:
        if known is not None and known.local:
            raise ClusterError(f"{wish.data_dir} belongs to a local cluster: use another --data-dir with --address")
        state = _joined_state(wish, known)
    elif known is None:
        state = _new_local_state(wish)
    else:
        state = known
        if not state.local:
            raise ClusterError(f"cluster {state.name!r} lives on another Ray cluster: give its --address")
        if len(state.control_plane) != wish.control_plane:
            raise ClusterError(
                f"cluster {state.name!r} has a control plane of {len(state.control_plane)} machines:"
                f" give --control-plane {len(state.control_plane)}, or another --name"
            )
        if len(state.machines) > wish.machines:
            raise ClusterError(
                f"cluster {state.name!r} has {len(state.machines)} machines: give --machines {len(state.machines)}"
                " or more, or another --name"
            )
        for index in range(len(state.machines) + 1, wish.machines + 1):
            state.machines.append(_local_machine(wish, state.subnet, index))
    if wish.extra_config:
        state.extra_config = wish.extra_config
    return state


def _check_flags(placements: list[Placement]) -> None:
    """Refuses unknown or malformed `--extra-config` before anything starts."""
    import importlib

    from pydantic import ValidationError

    for item in placements:
        for package, flags in item.services:
            try:
                importlib.import_module(f"{package}.config").Config(**flags)
            except ValidationError as error:
                problem = error.errors()[0]
                flag = str(problem["loc"][0]).replace("_", "-") if problem["loc"] else ""
                raise ClusterError(
                    f"{item.component}: --{flag}: {problem['msg'].removeprefix('Value error, ')}"
                ) from None


def _check_ports(state: ClusterState) -> None:
    """Refuses to start beside a program that has one of our ports, before anything starts."""
    wanted = [(addresses.api_address(state.subnet), addresses.API_PORT, "the API")]
    for machine in state.machines:
        ports = [(addresses.KUBELET_PORT, "the kubelet")]
        if machine.control_plane:
            ports += [
                (addresses.KV_CLIENT_PORT, "the store"),
                (addresses.KV_PEER_PORT, "the store's peers"),
                (addresses.APISERVER_PORT, "the apiserver"),
                (addresses.APISERVER_GRPC_PORT, "the apiserver's gRPC"),
            ]
        wanted += [(machine.address, port, what) for port, what in ports]
    for address, port, what in wanted:
        if not _port_is_free(address, port):
            raise ClusterError(f"{what} needs {address}:{port}, which another program uses: stop that program first")


def up(wish: Settings, listener: Listener) -> ClusterState:
    """Makes the cluster of `wish` run; returns it. Raises ClusterError or OSError with one line for the operator."""
    with _locked(wish.data_dir):
        state = _resolve(wish)
        placements = plan(state, wish.data_dir)
        _check_flags(placements)
        cluster_state.save(wish.data_dir, state)
        with step(listener, "Certificates") as running:
            written = pki.write_pki(
                wish.data_dir / "pki",
                {machine.name: [machine.address] for machine in state.machines},
                now=time.time(),
                service_ip=addresses.first_service_address(state),
                extra_sans=[addresses.api_address(state.subnet)],
            )
            running.detail = f"{len(written)} written" if written else "all valid"
        if state.local:
            _start_ray(state, wish, listener)
        placement.connect(state, wish.data_dir)
        _start_placements(placements, state, wish, listener)
        with step(listener, "Kubeconfig") as running:
            _write_kubeconfig(state, wish)
            running.detail = str(wish.kubeconfig)
        with step(listener, "Nodes") as running:
            ready = wait_for_nodes(_grpc_servers(state), admin_tls(wish.data_dir), len(state.machines), READY_TIMEOUT_S)
            running.detail = f"{ready} Ready"
    return state


def _start_ray(state: ClusterState, wish: Settings, listener: Listener) -> None:
    ray_nodes.ensure_token(wish.data_dir)
    state.scratch_dir.mkdir(mode=0o700, exist_ok=True)
    if state.scratch_dir.stat().st_uid != os.getuid():
        raise ClusterError(f"{state.scratch_dir} belongs to another user")
    alive: set[str] = set()
    if state.gcs_address and ray_nodes.answers(state.gcs_address) and _is_ours(state):
        placement.connect(state, wish.data_dir)
        alive = {node["Labels"].get(ray_nodes.MACHINE_LABEL, "") for node in placement.live_nodes()}
    else:
        # Without its head, a Ray cluster cannot take actors back: what is left of it goes, containers stay.
        processes.end(state.id, role=processes.ROLE_RAY, grace_s=0)
        _check_ports(state)
        with step(listener, "Ray head") as running:
            state.gcs_address = ray_nodes.start_head(state, wish.data_dir)
            cluster_state.save(wish.data_dir, state)
            running.detail = state.gcs_address
        alive = {state.machines[0].name}
    missing = [machine for machine in state.machines if machine.name not in alive]
    if missing:
        for machine in missing:
            processes.end(state.id, machine.name, processes.ROLE_RAY, grace_s=0)
        with step(listener, "Ray nodes") as running:
            ray_nodes.start_workers(state, missing, wish.data_dir)
            running.detail = ", ".join(machine.address for machine in missing)


def _is_ours(state: ClusterState) -> bool:
    """Whether the head's machine still has Ray processes of this cluster: a port may have a new owner."""
    return any(True for _ in processes.find(state.id, state.machines[0].name, processes.ROLE_RAY))


def _start_placements(placements: list[Placement], state: ClusterState, wish: Settings, listener: Listener) -> None:
    # All processes start now, on all machines: the first thing each does, loading Python, needs none of the others.
    handles = {item.name: placement.start(item, state, wish.data_dir) for item in placements}
    for component in PACKAGES:
        mine = [item for item in placements if item.component == component]
        with step(listener, TITLES[component]) as running:
            for item in mine:
                placement.wait_ready(item.name, handles[item.name], READY_TIMEOUT_S)
            running.detail = ", ".join(item.machine.name for item in mine)


def _server(state: ClusterState) -> str:
    host = addresses.api_address(state.subnet) if state.local else state.control_plane[0].address
    return f"https://{host}:{addresses.API_PORT}"


def _grpc_servers(state: ClusterState) -> list[str]:
    return [f"{machine.address}:{addresses.APISERVER_GRPC_PORT}" for machine in state.control_plane]


def admin_tls(data_dir: Path) -> Tls:
    """The administrator's certificate of the cluster in `data_dir`."""
    folder = data_dir / "pki"
    return Tls(folder / "admin.crt", folder / "admin.key", folder / "ca.crt")


def _write_kubeconfig(state: ClusterState, wish: Settings) -> None:
    folder = wish.data_dir / "pki"
    kubeconfig.merge(
        wish.kubeconfig,
        state.name,
        _server(state),
        (folder / "ca.crt").read_bytes(),
        pki.read_pair(folder, "admin"),
        _grpc_servers(state),
    )


def down(data_dir: Path, kubeconfig_path: Path, listener: Listener) -> bool:
    """Ends every process of the cluster in `data_dir`; its data stays. Returns False when there is no cluster."""
    state = cluster_state.load(data_dir)
    if state is None:
        return False
    with _locked(data_dir):
        placements = plan(state, data_dir)
        try:
            placement.connect(state, data_dir)
        except OSError:
            pass  # Ray is down already: what is left is found by its marker
        else:
            with step(listener, "Components"):
                # Who decides stops first, so that nothing is healed while it is taken down; the store stops last.
                order = ["controller-manager", "scheduler", "kube-proxy", "kubelet", "router", "apiserver", "kv"]
                for group in (order[:2], order[2:4], order[4:6], order[6:]):
                    placement.stop([item for item in placements if item.component in group], STOP_TIMEOUT_S)
            placement.disconnect()
        with step(listener, "Processes") as running:
            running.detail = f"{processes.end(state.id)} ended"
        shutil.rmtree(state.scratch_dir, ignore_errors=True)
        if state.local:
            state.gcs_address = ""
            cluster_state.save(data_dir, state)
        kubeconfig.remove(kubeconfig_path, state.name)
    return True


def status(data_dir: Path) -> ClusterStatus | None:
    """How the cluster in `data_dir` is; None when there is none. Works, with less to say, while Ray's head is dead."""
    state = cluster_state.load(data_dir)
    if state is None:
        return None
    placements = plan(state, data_dir)
    note = ""
    found: dict[str, dict[str, Any]] = {}
    try:
        placement.connect(state, data_dir)
        found = placement.statuses(placements)
    except OSError as error:
        note = str(error)
    rows = [_row(item, found.get(item.name), bool(note)) for item in placements]
    store = [row for row in rows if row.component == "kv"]
    return ClusterStatus(
        name=state.name,
        server=_server(state),
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
    address = f"{item.machine.address}:{_PORTS[item.component]}"
    if found is not None:
        return ComponentStatus(
            item.component, item.machine.name, address, found["pid"], found["role"], found["healthy"], found["detail"]
        )
    # Ray cannot be asked: whether the component's port answers is still worth knowing.
    listening = ray_is_down and ray_nodes.answers(address, 0.5)
    detail = "port answers" if listening else "no answer"
    return ComponentStatus(item.component, item.machine.name, address, 0, "", listening, detail)


def kill_machine(state: ClusterState, machine: str) -> int:
    """SIGKILL to everything on one machine at once, containers included: what a power cut does."""
    return processes.end(state.id, machine, grace_s=0)


__all__ = ["CONTROL_PLANE", "ClusterError", "ClusterStatus", "ComponentStatus", "down", "kill_machine", "status", "up"]
