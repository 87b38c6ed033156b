"""From the operator's wish to the cluster it means: the one in the data directory, or a new one."""

import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version

from pydantic import ValidationError

from raykube.base.ids import fnv32a
from raykube.cluster import addresses, claims, machines, placement, ray_nodes, settings
from raykube.cluster import state as cluster_state
from raykube.cluster.actor import write_private
from raykube.cluster.facts import Facts
from raykube.cluster.settings import DEFAULT_NAME, Settings
from raykube.cluster.state import ClusterState, Machine

SUBNETS = 256
EXISTING_TIMEOUT_S = 300.0  # machines notice after a minute that their Ray's head knows nothing, and begin anew
EXISTING_POLL_S = 3.0


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


def is_own(address: str) -> bool:
    """Whether `address` is one of this computer's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
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
    state = ClusterState(
        name=wish.name,
        id=uuid.uuid4().hex,
        subnet=subnet,
        local=True,
        machines=[_local_machine(wish, subnet, index) for index in range(1, wish.machines + 1)],
        control_plane_size=wish.control_plane,
    )
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


def _joined_state(wish: Settings, known: ClusterState | None) -> tuple[ClusterState, bool]:
    """The state of a cluster on Ray nodes that somebody else started: what any of its machines knows, or a new one,
    and whether it is new."""
    if not wish.insecure_ray and not settings.has_ray_authentication(settings.RAY_TOKEN_FILE):
        raise ClusterError(settings.NO_TOKEN)
    deadline = time.monotonic() + wish.ray_timeout_s
    while not ray_nodes.answers(wish.address):
        if time.monotonic() < deadline:
            time.sleep(0.2)
            continue
        raise ClusterError(f"Ray at {wish.address} does not answer: give the address that 'ray start --head' printed")
    state = ClusterState(name=wish.name, id=uuid.uuid4().hex, subnet=0, local=False, machines=[])
    placement.connect(state.model_copy(update={"gcs_address": wish.address}), wish.data_dir)
    state, home, found = _look(wish, known, state)
    if home and not (wish.data_dir / "pki" / "ca.key").exists():
        for name, content in placement.authority_at(home, wish.data_dir).items():
            write_private(wish.data_dir / "pki" / name, content)
    is_new = not state.machines
    state.gcs_address = wish.address
    state.control_plane_size = wish.control_plane or state.members_wanted or 1
    state.control_plane_selector = wish.control_plane_selector or state.control_plane_selector
    if is_new:
        state.runtime_endpoint = wish.container_runtime_endpoint
        state.has_networks = machines.all_have_networks(wish.container_runtime_endpoint, found)
    elif wish.container_runtime_endpoint not in ("", state.runtime_endpoint):
        raise ClusterError(
            f"cluster {state.name!r} was made with {state.runtime_endpoint or 'the runtimes it found'}:"
            " a cluster's runtime cannot be changed"
        )
    known_addresses = {machine.address for machine in state.machines}
    for facts in list(found):
        if reason := machines.refusal(state, facts, version("raykube")):
            if not wish.existing or facts.address in known_addresses:
                raise ClusterError(f"the machine {facts.hostname} ({facts.address}) {reason}")
            found.remove(facts)  # the cluster did without it before; its stewards say why they do not take it
    if wish.control_plane_selector or not wish.existing:  # nobody is there to hear that machines lost their labels
        machines.choose_eligible(state, found)
    machines.admit(state, found)
    if not all(facts.is_root for facts in found):
        state.kubernetes_service_port = addresses.API_PORT  # an ordinary user's kube-proxy cannot have 443
    if not wish.existing and not any(machine.eligible for machine in state.machines):
        raise ClusterError("--control-plane-selector chooses no Ray node: 'ray start --labels' sets labels")
    if is_new:
        machines.set_control_plane(state, machines.first_control_plane(state))
    return state, is_new


def _look(wish: Settings, known: ClusterState | None, new: ClusterState) -> tuple[ClusterState, str, list[Facts]]:
    """The newest record, the address of a machine that has one, and what all machines say of themselves."""
    deadline = time.monotonic() + EXISTING_TIMEOUT_S
    while True:
        live = sorted(placement.live_nodes(), key=lambda node: "node:__internal_head__" not in node["Resources"])
        found, failed = placement.look(live, wish.data_dir)
        for address, reason in () if wish.existing and time.monotonic() < deadline else failed.items():
            raise ClusterError(f"the machine at {address} cannot be asked: {reason}")
        state, home = _newest(known, found, new)
        if not wish.existing or knows_itself(state, found):
            return state, home, found
        if time.monotonic() > deadline:
            there = ", ".join(facts.address for facts in found)
            raise ClusterError(
                f"no majority of the machines with members of cluster {wish.name!r} and its data directory is in this"
                f" Ray, which has {there}: see that 'raykube machine' runs on the others"
            )
        time.sleep(EXISTING_POLL_S)


def knows_itself(state: ClusterState, found: Sequence[Facts]) -> bool:
    """Whether there is a majority of the store's members, each with the disk that it had."""
    holders = {facts.address for facts in found if state.id in facts.clusters}
    members = [machine.address for machine in state.control_plane]
    return bool(members) and 2 * len(holders.intersection(members)) > len(members)


def _newest(known: ClusterState | None, found: list[Facts], new: ClusterState) -> tuple[ClusterState, str]:
    """The newest record of the cluster, `new` if there is none, and the address of a machine that has one, or "".

    Raises ClusterError when it is not clear which cluster is meant.
    """
    records = {}
    for facts in found:
        with suppress(ValidationError):
            if facts.record:
                records[facts.address] = ClusterState.model_validate_json(facts.record)
    best, home = choose(known or new, records)
    # While it runs, its stewards know best.
    running = placement.handed_over(best)
    if running is not None and best.machines and running.id != best.id:
        raise ClusterError(
            f"another cluster {best.name!r} runs on this Ray: its id is {running.id}, that of the one here {best.id}:"
            " give another --name and --data-dir, or to use that one, a --data-dir that has no cluster"
        )
    if running is not None and running.generation >= best.generation:
        best = running
    return best, home


def choose(wanted: ClusterState, records: Mapping[str, ClusterState]) -> tuple[ClusterState, str]:
    """The newest record of the wanted cluster, and the address of a machine that has one, or "".

    `wanted` is what the operator has of it; without machines it is a name alone, and any cluster so named is meant, if
    there is but one: else ClusterError. `records` are by the address of the machine that has them.
    """
    mine = {
        address: record
        for address, record in records.items()
        if not record.local and record.name == wanted.name and (not wanted.machines or record.id == wanted.id)
    }
    if len(ids := sorted({record.id for record in mine.values()})) > 1:
        places = (", ".join(address for address, record in mine.items() if record.id == each) for each in ids)
        listed = "; ".join(f"{each} on {place}" for each, place in zip(ids, places, strict=True))
        raise ClusterError(
            f"there are several clusters {wanted.name!r}: {listed}:"
            " run 'raykube up' on a machine of the one that you mean, or move away the others' data directories"
        )
    best, home = wanted, next(iter(mine), "")
    for address, record in mine.items():
        if not best.machines or record.generation > best.generation:
            best, home = record, address
    return best, home


def resolve(wish: Settings, held: ExitStack) -> tuple[ClusterState, bool]:
    """The cluster that `wish` means, one that there is or a new one, and whether it is new. Raises ClusterError.

    `held` keeps the claim on its addresses for as long as it is open.
    """
    known = cluster_state.load(wish.data_dir)
    is_new = known is None
    if known is not None and known.name != wish.name:
        raise ClusterError(
            f"{wish.data_dir} belongs to cluster {known.name!r}: give --name {known.name}, or another --data-dir"
        )
    if wish.address:
        if known is not None and known.local:
            raise ClusterError(f"{wish.data_dir} belongs to a local cluster: use another --data-dir with --address")
        state, is_new = _joined_state(wish, known)
    elif known is None:
        state = _new_local_state(wish, held)
    else:
        state = known
        if not state.local:
            raise ClusterError(f"cluster {state.name!r} lives on another Ray cluster: give its --address")
        held.enter_context(claims.claim(state.subnet))
        # What was asked for, not what there is: a machine that is lost may have left fewer, until it is back.
        if state.members_wanted != wish.control_plane:
            raise ClusterError(
                f"cluster {state.name!r} has a control plane of {state.members_wanted} machines:"
                f" give --control-plane {state.members_wanted}, or another --name"
            )
        if len(state.machines) > wish.machines:
            raise ClusterError(
                f"cluster {state.name!r} has {len(state.machines)} machines: give --machines {len(state.machines)}"
                " or more, or another --name"
            )
        for index in range(len(state.machines) + 1, wish.machines + 1):
            machine = _local_machine(wish, state.subnet, index)
            state.machines.append(machine.model_copy(update={"control_plane": False}))
    if wish.extra_config:
        state.extra_config = wish.extra_config
    if wish.hollow is not None and wish.hollow != state.hollow_nodes:
        state.hollow_nodes = wish.hollow
        state.hollow_actors = addresses.hollow_actors(wish.hollow, len(state.machines))
    return state, is_new
