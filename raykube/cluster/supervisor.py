"""Brings a cluster up and takes it down.

`up` is idempotent and works from whatever it finds: a missing Ray node or actor is started, one that is there is left
alone. Whatever happens in the middle, `down` finds every process by its marker.
"""

import asyncio
import fcntl
import importlib
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raykube.client.kv import KvClient
from raykube.cluster import (
    addresses,
    departure,
    health,
    hollow,
    kubeconfig,
    pki,
    placement,
    processes,
    ray_nodes,
    record,
)
from raykube.cluster import state as cluster_state
from raykube.cluster.authority import certify
from raykube.cluster.plan import COMPONENTS, PACKAGES, Folders, Placement, kv_placement, plan
from raykube.cluster.readiness import wait_for_nodes
from raykube.cluster.settings import Settings, program_path
from raykube.cluster.state import ClusterState
from raykube.cluster.steps import Listener, step
from raykube.cluster.wish import ClusterError, is_own, port_is_free, resolve
from raykube.kubelet.volumes import mounts
from raykube.rpc import RpcError
from raykube.rpc.listen import socket_folder_flaw
from raykube.rpc.tls import Tls

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 4.0
PORT_TIMEOUT_S = 3.0
RAY_STARTS_MAX = 3
STORE_MOVES_MAX = 3
HOLD_S = 120.0  # for how long stewards leave the actors alone while an operator's command changes them
HOLD_AGAIN_S = 20.0  # one kind of actors may take more than a minute to end


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """One `up` or `down` at a time on a data directory. A command that is refused leaves no directory behind."""
    made = [folder for folder in (data_dir, *data_dir.parents) if not folder.exists()]
    path = data_dir / ".lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = path.open("w")
    except OSError as error:
        raise ClusterError(f"cannot write to {data_dir}: {error.strerror}: give another --data-dir") from None
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(f"another raykube command works on {data_dir}: wait for it to end") from None
        if not path.exists():
            # Another command had it, was refused, and took the file away: this lock is nobody's.
            raise ClusterError(f"another raykube command worked on {data_dir}: try again")
        try:
            yield
        finally:
            if made and [each.name for each in data_dir.iterdir()] == [path.name]:
                path.unlink()
                with suppress(OSError):  # somebody else put something there
                    for folder in made:
                        folder.rmdir()


def _check_flags(placements: list[Placement]) -> None:
    """Refuses unknown or malformed `--extra-config` before anything starts."""
    for item in placements:
        for package, flags in item.services:
            try:
                importlib.import_module(f"{package}.config").Config(**flags)
            except ValidationError as error:
                problem = error.errors()[0]
                flag = str(problem["loc"][0]).replace("_", "-") if problem["loc"] else ""
                message = problem["msg"].removeprefix("Value error, ")
                if problem["type"] == "extra_forbidden":
                    command = next(name for name, module in PACKAGES.items() if module == package)
                    message = f"there is no such flag; 'raykube {command} --help' lists them"
                raise ClusterError(f"{item.component}: --{flag}: {message}") from None


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
    # A killed process gives up its sockets a moment after it has left the list of processes.
    deadline = time.monotonic() + PORT_TIMEOUT_S
    for address, port, what in wanted:
        while not port_is_free(address, port):
            if time.monotonic() > deadline:
                message = f"{what} needs {address}:{port}, which another program uses: stop that program first"
                raise ClusterError(message)
            time.sleep(0.1)


def up(wish: Settings, listener: Listener) -> ClusterState:
    """Makes the cluster of `wish` run; returns it. Raises ClusterError or OSError with one line for the operator.

    When it fails or is interrupted, a new cluster is taken down again. One that there was is left as it is: its pods
    may run on machines where no actor of it does.
    """
    with _locked(wish.data_dir), ExitStack() as held:
        kubeconfig.check(wish.kubeconfig)
        state, is_new = resolve(wish, held)
        if state.local:
            state.program_path = program_path()
        placements = plan(state, wish.data_dir)
        _check_flags(placements)
        # On this computer, where every process of it can be seen, one that is down may be taken down again.
        is_ours_to_end = is_new or (state.local and not is_running(state))
        cluster_state.save(wish.data_dir, state)
        try:
            state = _bring_up(state, wish, listener)
        except BaseException:
            if is_ours_to_end:
                with suppress(kubeconfig.KubeconfigError, ClusterError):
                    _take_down(state, wish.data_dir, listener)
                    kubeconfig.remove(wish.kubeconfig, state.name)
            raise
        if wish.hollow is not None:
            hollow.forget(state, admin_tls(wish.data_dir))  # the cluster runs, and goes on also where that fails
    return state


def is_running(state: ClusterState) -> bool:
    """Whether a local cluster runs: its Ray, or its containers.

    What is left of a Ray without its head does not count: `up` ends it, and a killed machine may leave stragglers.
    """
    return _ray_runs(state) or any(process.role != processes.ROLE_RAY for process in processes.find(state.id))


def _bring_up(state: ClusterState, wish: Settings, listener: Listener) -> ClusterState:
    renewed = _certify(state, wish.data_dir, listener)
    if state.local:
        _start_ray(state, wish, listener)
    placement.connect(state, wish.data_dir)
    placement.ask(state, "kv", "hold", str(HOLD_S))
    if wish.hollow is not None:
        hollow.end_others(state, wish.data_dir)
    for attempt in range(STORE_MOVES_MAX):
        try:
            state = _start_placements(state, wish, listener, renewed)
            break
        except OSError:
            # Machines that come back make room for members of lost ones: the stewards may be moving them just now.
            newest = placement.handed_over(state)
            if newest is None or attempt + 1 == STORE_MOVES_MAX or newest.control_plane == state.control_plane:
                raise
            state = newest
    if renewed:  # actors that ran before have what they were made with
        placement.renew_files(plan(state, wish.data_dir), state, wish.data_dir)
    with step(listener, "Kubeconfig") as running:
        _write_kubeconfig(state, wish)
        running.detail = str(wish.kubeconfig)
    placement.ask(state, "kv", "hold", "0")
    with step(listener, "Nodes") as running:
        live = placement.live_nodes()
        expected = sum(placement.is_alive(machine, state, live) for machine in state.machines)
        ready = wait_for_nodes(addresses.grpc_servers(state), admin_tls(wish.data_dir), expected, READY_TIMEOUT_S)
        hollow_ready = f", {state.hollow_nodes} hollow" if state.hollow_nodes else ""
        running.detail = f"{ready} Ready{hollow_ready}"
    return state


def _certify(state: ClusterState, data_dir: Path, listener: Listener) -> list[str]:
    """Has certificates for all machines; returns the names of those that are new."""
    with step(listener, "Certificates") as running:
        written = certify(state, data_dir / "pki")
        running.detail = f"{len(written)} written" if written else "all valid"
    return written


def _start_ray(state: ClusterState, wish: Settings, listener: Listener) -> None:
    ray_nodes.ensure_token(wish.data_dir)
    state.scratch_dir.mkdir(mode=0o700, exist_ok=True)
    # Its name is no secret and everybody may write to /tmp: another user may have been here first.
    if flaw := socket_folder_flaw(state.scratch_dir):
        raise ClusterError(f"{state.scratch_dir} {flaw}: remove it and try again")
    alive: set[str] = set()
    if _ray_runs(state):
        placement.connect(state, wish.data_dir)
        # Ray takes seconds to notice that a machine died; here its processes tell at once.
        alive = {node["Labels"].get(ray_nodes.MACHINE_LABEL, "") for node in placement.live_nodes()}
        alive = {name for name in alive if any(True for _ in processes.find(state.id, name, processes.ROLE_RAY))}
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


def _ray_runs(state: ClusterState) -> bool:
    """Whether the head answers and is this cluster's: its port may have a new owner."""
    if not state.gcs_address or not ray_nodes.answers(state.gcs_address):
        return False
    return any(True for _ in processes.find(state.id, state.machines[0].name, processes.ROLE_RAY))


def _start_placements(state: ClusterState, wish: Settings, listener: Listener, renewed: list[str]) -> ClusterState:
    """Starts what is missing, and waits for it; returns the record, which the store has then.

    Certificates that are new for what the record says besides are named in `renewed`.
    """
    alive = _present(state, wish.data_dir)
    placements = [item for item in plan(state, wish.data_dir) if item.machine.name in alive]
    # All processes start now, on all machines: the first thing each does, loading Python, needs none of the others. But
    # where stewards may have taken a new machine meanwhile, its name and its index are what the record says.
    is_certain = state.local or not state.generation
    begun = [item for item in placements if is_certain or item.component == "kv"]
    if not any(item.component == "kv" for item in begun):
        away = ", ".join(f"{machine.name} ({machine.address})" for machine in state.control_plane)
        raise OSError(f"no machine with a member of the store is in this Ray: start Ray on {away}")
    handles = {item.name: placement.start(item, state, wish.data_dir) for item in begun}
    for component, row in COMPONENTS.items():
        mine = [item for item in placements if item.component == component]
        if not mine:
            continue
        with step(listener, row.title) as running:
            flaws = _wait_ready(mine, handles, state)
            well = [item for item in mine if item.name not in flaws]
            placement.wait_healthy(well, READY_TIMEOUT_S)
            running.detail = "; ".join([", ".join(item.machine.name for item in well), *flaws.values()])
        if component == "kv":
            # From here on stewards wait for this command. They may have moved the control plane of a machine that came
            # back without its disk, and what began there is no more.
            placement.ask(state, "kv", "hold", str(HOLD_S))
            state = asyncio.run(_record(state, wish.data_dir))
            cluster_state.save(wish.data_dir, state)
            renewed += certify(state, wish.data_dir / "pki")
            alive = _present(state, wish.data_dir)
            placements = [item for item in plan(state, wish.data_dir) if item.machine.name in alive]
            others = [item for item in placements if item.component != "kv"]
            handles = {item.name: placement.start(item, state, wish.data_dir) for item in others}
    return state


def _wait_ready(items: list[Placement], handles: Mapping[str, Any], state: ClusterState) -> dict[str, str]:
    """Waits until all serve; returns why some do not, by name, of whom the cluster can do without. Raises OSError.

    Of a store that there was, a majority is enough: a member that lost its disk does not start again, and the stewards
    make another in its place.
    """
    flaws: dict[str, str] = {}
    for item in items:
        try:
            placement.wait_ready(item.name, handles[item.name], READY_TIMEOUT_S)
        except OSError as error:
            flaws[item.name] = str(error)
            is_store = item.component == "kv" and state.generation > 0
            if not is_store or len(items) - len(flaws) <= len(state.control_plane) // 2:
                raise
    return flaws


def _present(state: ClusterState, data_dir: Path) -> set[str]:
    """The machines that Ray has. On hosts of their own some may be away; on this computer all were started just now."""
    for _ in range(RAY_STARTS_MAX):
        live = placement.live_nodes()
        missing = [machine for machine in state.machines if not placement.is_alive(machine, state, live)]
        if not missing or not state.local:
            return {machine.name for machine in state.machines if machine not in missing}
        # A computer that is very busy lets heartbeats wait, and Ray gives a machine up that just began.
        for machine in missing:
            processes.end(state.id, machine.name, processes.ROLE_RAY, grace_s=0)
        ray_nodes.start_workers(state, missing, data_dir)
    raise ClusterError(f"Ray started on {missing[0].name}, but ended: is this computer very busy? try again")


async def _record(state: ClusterState, data_dir: Path) -> ClusterState:
    """The record in the store, with what is new in `state`. Raises OSError."""
    pki_dir = data_dir / "pki"
    tls = Tls(pki_dir / "apiserver-etcd-client.crt", pki_dir / "apiserver-etcd-client.key", pki_dir / "ca.crt")
    client = KvClient([f"{machine.address}:{addresses.KV_CLIENT_PORT}" for machine in state.control_plane], tls)
    try:
        return await record.merge(client, state)
    except RpcError as error:
        raise OSError(f"the store does not take the cluster's record: {error}") from None
    finally:
        await client.close()


def admin_tls(data_dir: Path) -> Tls:
    """The administrator's certificate of the cluster in `data_dir`."""
    folder = data_dir / "pki"
    return Tls(folder / "admin.crt", folder / "admin.key", folder / "ca.crt")


def _write_kubeconfig(state: ClusterState, wish: Settings) -> None:
    folder = wish.data_dir / "pki"
    kubeconfig.merge(
        wish.kubeconfig,
        state.name,
        addresses.api_servers(state, [machine.address for machine in state.machines if is_own(machine.address)]),
        (folder / "ca.crt").read_bytes(),
        pki.read_pair(folder, "admin"),
        addresses.grpc_servers(state),
    )


def down(data_dir: Path, kubeconfig_path: Path, listener: Listener, *, with_ray: bool = False) -> bool:
    """Ends every process of the cluster in `data_dir`; its data stays. Returns False when there is no cluster.

    On a Ray cluster of others their Ray runs on, unless `with_ray`. Raises ClusterError when pods or rules are left on
    some machine; Ray runs on then, for a second try needs it.
    """
    state = cluster_state.load(data_dir)
    if state is None:
        return False
    with _locked(data_dir):
        stays = _take_down(state, data_dir, listener, with_ray=with_ray)
        kubeconfig.remove(kubeconfig_path, state.name)
    if stays:
        raise ClusterError(departure.what_stays(stays, "raykube down"))
    return True


def _take_down(state: ClusterState, data_dir: Path, listener: Listener, *, with_ray: bool = False) -> Mapping[str, str]:
    """Returns why pods or rules are left on machines, by actor."""
    stays: dict[str, str] = {}
    try:
        placement.connect(state, data_dir)
    except OSError as error:
        # What is left on this computer is found by its marker, but that is not all of it while others run on.
        if not state.local and health.answering(state, data_dir):
            raise ClusterError(
                f"{error}; its machines run on, and only Ray reaches them: bring its head back first"
            ) from None
    else:
        with step(listener, "Components") as running:
            placement.ask(state, "kv", "hold", str(HOLD_S))
            state = placement.handed_over(state) or state
            cluster_state.save(data_dir, state)
            stays = _end_components(state, data_dir)
            live = placement.live_nodes()
            away = [machine.name for machine in state.machines if not placement.is_alive(machine, state, live)]
            if away and not state.local:
                running.detail = f"{', '.join(away)} away: what runs there stays"
        if with_ray and not state.local and not stays:
            with step(listener, "Ray") as running:
                running.detail = f"ended on {departure.end_all_ray()} machines"
        else:
            placement.disconnect()
    with step(listener, "Processes") as running:
        running.detail = f"{processes.end(state.id)} ended"
    mounts.detach_pods(data_dir.resolve())  # volumes in memory: no kubelet is left to remove them
    shutil.rmtree(state.scratch_dir, ignore_errors=True)
    if state.local:
        state.gcs_address = ""
        cluster_state.save(data_dir, state)
        for machine in state.machines:
            shutil.rmtree(Folders(data_dir, state, machine).specs, ignore_errors=True)
    return stays


def _end_components(state: ClusterState, data_dir: Path) -> dict[str, str]:
    """Ends all actors, and what they left on purpose on machines that are there; returns why that stays, by actor."""
    placements = plan(state, data_dir)
    # A learner is of no plan, and has left its spec all the same.
    learners = placement.store_hosts(state, placement.names()) - {machine.name for machine in state.control_plane}
    placements += [kv_placement(state, state.machine(name), data_dir) for name in sorted(learners)]
    stays: dict[str, str] = {}
    # Who decides stops first, so that nothing is healed while it is taken down; the store stops last.
    order = list(COMPONENTS)
    deciders = ["controller-manager", "scheduler"]
    workers = [name for name in reversed(order) if name not in (*deciders, "apiserver", "kv")]
    held_at = time.monotonic()
    # A kubelet's pods need the pod network until they have ended: one kind after the other.
    for group in (deciders, *([name] for name in workers), ["apiserver"], ["kv"]):
        mine = [item for item in placements if item.component in group]
        if time.monotonic() - held_at > HOLD_AGAIN_S:
            # A machine that hangs takes its time for each kind, and the stewards would begin to make all anew.
            placement.ask(state, "kv", "hold", str(HOLD_S))
            held_at = time.monotonic()
        # Pods that could not be ended keep their network: without it no runtime takes them away later.
        kept = [item for item in mine if f"kubelet-{item.machine.name}" in stays]
        placement.stop(kept, state, STOP_TIMEOUT_S)
        gone = [item for item in mine if item not in kept]
        stays |= placement.stop(gone, state, STOP_TIMEOUT_S, clear=not state.local)
    for name in placement.names():
        placement.end(name)  # of machines that are away, or that came just now
    if state.local:
        return {}
    # What an actor could not do, because it did not run, or because there is none any more, as where the control plane
    # was before it moved: a second try, on each machine. Its specs say what is to be done there, and mostly nothing is.
    live = placement.live_nodes()
    machines = [each for each in state.machines if placement.is_alive(each, state, live)]
    left = placement.clear_leftovers(state, data_dir, machines)
    tried = {machine.name for machine in machines}
    unseen = {
        item.name: stays[item.name] for item in placements if item.name in stays and item.machine.name not in tried
    }
    return left | unseen
