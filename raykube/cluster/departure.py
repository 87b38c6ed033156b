"""`raykube leave`: takes a machine out of its cluster, politely.

The steward drains it, moves its part of the control plane elsewhere and ends its actors; then its Ray is ended, and the
steward forgets it. Any machine of the Ray cluster can say so for any other, but only end its own Ray.
"""

import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from raykube.cluster import placement
from raykube.cluster import state as cluster_state
from raykube.cluster.plan import COMPONENTS
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steps import Listener, step
from raykube.cluster.wish import ClusterError, is_own

POLL_S = 0.5
END_TIMEOUT_S = 30.0
NO_PLACE = (
    "is no machine free to take its member of the store? Start one, or have a smaller control plane with"
    " 'raykube up --address … --control-plane 1'"
)


def leave(name: str, machine_name: str, address: str, data_dir: Path, listener: Listener, timeout_s: float) -> None:
    """Takes a machine, this one if `machine_name` is empty, out of cluster `name`. Raises ClusterError, OSError."""
    known = None
    with suppress(ValueError):  # the steward's word counts; this is only to tell at once what it would
        known = cluster_state.load(data_dir)
    if known is not None and known.name == name and known.local:
        raise _is_local(name)  # whose Ray has a token of its own, and would be asked in vain
    unknown = ClusterState(name=name, id="", subnet=0, local=False, machines=[], gcs_address=address)
    placement.connect(unknown, data_dir)
    state = placement.handed_over(unknown)
    if state is None:
        raise ClusterError(f"no steward of cluster {name!r} answers: see 'raykube status' on its control plane")
    if state.local:
        raise _is_local(name)
    machine = _machine(state, machine_name)
    if _has_head(machine):
        raise ClusterError(f"{machine.name} has Ray's head: 'raykube down' ends the cluster")
    deadline = time.monotonic() + timeout_s
    gcs_address = placement.gcs_address()
    with step(listener, "Drain") as running:
        running.detail = machine.name
        is_known = _await_drained(state, machine, deadline)
        stays = placement.clear_leftovers(state, data_dir, [machine]) if is_known else {}
        if stays:
            raise ClusterError(what_stays(stays, "raykube leave"))
    if is_own(machine.address):
        with step(listener, "Ray") as running:
            running.detail = f"{end_ray(machine.address, gcs_address)} processes ended"


def _is_local(name: str) -> ClusterError:
    return ClusterError(f"cluster {name!r} is on one computer: 'raykube down' ends it")


def what_stays(problems: Mapping[str, str], command: str) -> str:
    """What to tell the operator when something of a cluster is left on machines, by actor."""
    lines = [f"  {actor}: {problem}" for actor, problem in sorted(problems.items())]
    return "\n".join(
        [
            "not all is taken away from the machines:",
            *lines,
            f"See that they are on and their runtimes answer, and run '{command}' again: it goes on with what is left",
        ]
    )


def _machine(state: ClusterState, name: str) -> Machine:
    own = [machine for machine in state.machines if machine.name == name or (not name and is_own(machine.address))]
    if len(own) != 1:
        there = ", ".join(machine.name for machine in state.machines)
        raise ClusterError(f"name a machine of cluster {state.name!r}: {there}")
    return own[0]


def _has_head(machine: Machine) -> bool:
    return any(
        node["NodeManagerAddress"] == machine.address and "node:__internal_head__" in node["Resources"]
        for node in placement.live_nodes()
    )


def _await_drained(state: ClusterState, machine: Machine, deadline: float) -> bool:
    """Asks until the machine has no actor any more; the stewards may change meanwhile. False: it is forgotten already,
    as one is that died while it left."""
    phase = ""
    while True:
        phase = next((answer for answer in placement.ask(state, "kv", "leave", machine.name) if answer), phase)
        state = placement.handed_over(state) or state
        mine = placement.names() & {f"{component}-{machine.name}" for component in COMPONENTS}
        if phase == "drained" and not mine:
            return True
        known = next((each for each in state.machines if each.name == machine.name), None)
        if known is None:
            return False
        if time.monotonic() > deadline:
            why = NO_PLACE if known.control_plane else f"it is {phase!r}"
            raise ClusterError(f"{machine.name} is not drained in time: {why}; 'raykube leave' again goes on")
        time.sleep(POLL_S)


def raylets(address: str, gcs_address: str) -> list[int]:
    """Process ids of the raylets of this computer that have `address` in the Ray cluster at `gcs_address`.

    A host may have other people's Ray too, of which each has a GCS of its own.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if not words[0].endswith(b"/raylet") or f"--node_ip_address={address}".encode() not in words:
            continue
        flag = next((word for word in words if word.startswith(b"--gcs-address=")), b"")
        if _is_same(flag.partition(b"=")[2].decode(), gcs_address):
            found.append(int(entry.name))
    return found


def _is_same(gcs_address: str, other: str) -> bool:
    """Whether two addresses are one GCS's. A head that can move has the address that others know besides its own."""
    one, two = _resolved(gcs_address), _resolved(other)
    hosts = [address.rpartition(":")[0] for address in (one, two)]
    is_here = all(is_own(host) and not host.startswith("127.") for host in hosts)
    return one == two or (is_here and one.rpartition(":")[2] == two.rpartition(":")[2])


def _resolved(gcs_address: str) -> str:
    """host:port with the host's address in the place of its name, if it is known."""
    host, _, port = gcs_address.rpartition(":")
    with suppress(OSError):
        host = socket.gethostbyname(host)
    return f"{host}:{port}"


def end_all_ray() -> int:
    """Ends the Ray that this process is connected to, on all machines; returns how many there were.

    The driver's own machine comes last.
    """
    nodes = placement.live_nodes()
    live = [node["NodeManagerAddress"] for node in nodes]
    heads = [node["NodeManagerAddress"] for node in nodes if "node:__internal_head__" in node["Resources"]]
    placement.call_at(heads, end_autoscaler, "{address}")
    gcs_address = placement.gcs_address()
    here = [address for address in live if is_own(address) and raylets(address, gcs_address)]
    placement.call_at([address for address in live if address not in here], signal_ray, "{address}")
    deadline = time.monotonic() + END_TIMEOUT_S
    while len(placement.live_nodes()) > len(here) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    placement.disconnect()
    for address in here:
        end_ray(address, gcs_address)
    return len(live)


def end_autoscaler(address: str) -> str:
    """Ends the process on the head that would start Ray again on machines where it ended."""
    gcs = f"--gcs-address={address}:".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        is_monitor = any(b"/autoscaler/" in word and word.endswith(b"/monitor.py") for word in words)
        if is_monitor and any(word.startswith(gcs) for word in words):
            os.kill(int(entry.name), signal.SIGTERM)
    return address


def signal_ray(address: str) -> str:
    """Asks the Ray node at `address`, on which this runs as one of its tasks, to end."""
    _signal(raylets(address, placement.gcs_address()))
    return address


def _signal(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def end_ray(address: str, gcs_address: str) -> int:
    """Ends the Ray node at `address` of one Ray cluster, as `ray stop` does to all; returns how many there were."""
    ended = raylets(address, gcs_address)
    _signal(ended)
    deadline = time.monotonic() + END_TIMEOUT_S
    while raylets(address, gcs_address):
        if time.monotonic() > deadline:
            raise OSError(f"Ray at {address} does not end: run 'ray stop --force'")
        time.sleep(POLL_S)
    return len(ended)
