"""From the operator's wish to the cluster it means: the one in the data directory, or a new one."""

import socket
import uuid
from contextlib import ExitStack
from typing import Any

from raykube.base.ids import fnv32a
from raykube.cluster import addresses, claims, placement, ray_nodes
from raykube.cluster import state as cluster_state
from raykube.cluster.settings import DEFAULT_NAME, Settings
from raykube.cluster.state import ClusterState, Machine

SUBNETS = 256


class ClusterError(ValueError):
    """The wish cannot be met; the message says what to do."""


def port_is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def may_bind(address: str, port: int) -> bool:
    """Whether this user may listen on `port` at all: those under 1024 are root's on most machines."""
    with socket.socket() as probe:
        try:
            probe.bind((address, port))
        except PermissionError:
            return False
        except OSError:
            return True
    return True


def first_choice(name: str) -> int:
    """Where the search for a subnet begins: clusters of different names rarely meet, even those that are down now."""
    return 0 if name == DEFAULT_NAME else 1 + fnv32a(name.encode()) % (SUBNETS - 1)


def _free_subnet(name: str, held: ExitStack) -> int:
    first = first_choice(name)
    for subnet in ((first + step) % SUBNETS for step in range(SUBNETS)):
        try:
            claim = claims.claim(subnet)
        except claims.Taken:
            continue
        address = addresses.api_address(subnet)
        if port_is_free(address, addresses.API_PORT) and not ray_nodes.answers(f"{address}:{addresses.API_PORT}", 0.2):
            held.enter_context(claim)
            return subnet
        claim.close()
    raise ClusterError(f"port {addresses.API_PORT} is in use on every address 127.*.0.1: stop a cluster first")


def _new_local_state(wish: Settings, held: ExitStack) -> ClusterState:
    subnet = _free_subnet(wish.name, held)
    machines = [_local_machine(wish, subnet, index) for index in range(1, wish.machines + 1)]
    state = ClusterState(name=wish.name, id=uuid.uuid4().hex, subnet=subnet, local=True, machines=machines)
    if not may_bind(addresses.first_service_address(state), state.kubernetes_service_port):
        # An ordinary user's kube-proxy cannot have 443; pods learn the port from their environment.
        state.kubernetes_service_port = addresses.API_PORT
    return state


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


def resolve(wish: Settings, held: ExitStack) -> ClusterState:
    """The cluster that `wish` means: the one in the data directory, or a new one. Raises ClusterError.

    `held` keeps the claim on its addresses for as long as it is open.
    """
    known = cluster_state.load(wish.data_dir)
    if known is not None and known.name != wish.name:
        raise ClusterError(
            f"{wish.data_dir} belongs to cluster {known.name!r}: give --name {known.name}, or another --data-dir"
        )
    if wish.address:
        if known is not None and known.local:
            raise ClusterError(f"{wish.data_dir} belongs to a local cluster: use another --data-dir with --address")
        state = _joined_state(wish, known)
    elif known is None:
        state = _new_local_state(wish, held)
    else:
        state = known
        if not state.local:
            raise ClusterError(f"cluster {state.name!r} lives on another Ray cluster: give its --address")
        held.enter_context(claims.claim(state.subnet))
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
