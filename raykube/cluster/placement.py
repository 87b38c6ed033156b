"""Placements made real: one Ray actor for each, detached, restarted for ever, on exactly its machine.

Nothing here is on the data path, and no call waits for ever: Ray's head may be dead. Ray reads its environment when it
is imported, so it is imported by `connect`, after the environment is set.
"""

import logging
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from raykube.cluster import ray_nodes, settings
from raykube.cluster.actor import ComponentHost, HostSpec
from raykube.cluster.plan import Folders, Placement, kv_placement
from raykube.cluster.state import ClusterState, Machine

CALL_TIMEOUT_S = 5.0
POLL_S = 0.1
NODE_ID_LABEL = "ray.io/node-id"


class RayError(OSError):
    """Ray does not do what was asked; the message is for the operator."""


def _ray() -> Any:
    import ray
    import ray.exceptions

    return ray


def connect(state: ClusterState, data_dir: Path) -> None:
    """Connects this process to the cluster's Ray. Raises RayError when it does not answer."""
    if not state.gcs_address or not ray_nodes.answers(state.gcs_address):
        raise RayError(f"Ray at {state.gcs_address or '(none)'} does not answer: start the cluster with 'raykube up'")
    if state.local:
        settings.apply_environment(ray_nodes.ray_environment(data_dir))
    ray = _ray()
    if ray.is_initialized():
        return
    try:
        with _signals_held():
            ray.init(
                address=state.gcs_address,
                namespace=state.namespace,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                configure_logging=True,
            )
    except Exception as error:
        raise RayError(f"cannot connect to Ray at {state.gcs_address}: {str(error).splitlines()[0]}") from None


@contextmanager
def _signals_held() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back: one that cuts a system call of Ray's start short aborts the whole process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def disconnect() -> None:
    """Ends this process's connection to Ray; actors go on."""
    _ray().shutdown()


@contextmanager
def connected(state: ClusterState, data_dir: Path) -> Iterator[None]:
    """A connection for one question. What Ray prints meanwhile of machines that come and go is not passed on: the
    answer's reader may be a program."""
    with redirect_stdout(StringIO()):
        connect(state, data_dir)
        try:
            yield
        finally:
            disconnect()


def live_nodes() -> list[dict[str, Any]]:
    """Ray's live nodes, as `ray.nodes()` describes them."""
    return [node for node in _ray().nodes() if node["Alive"]]


def label_selector(machine: Machine) -> dict[str, str]:
    """What pins an actor to `machine`. A soft affinity may land elsewhere; a label cannot."""
    if machine.ray_node_id:
        return {NODE_ID_LABEL: machine.ray_node_id}
    return {ray_nodes.MACHINE_LABEL: machine.name}


def spec_of(placement: Placement, state: ClusterState, data_dir: Path, pki: Path | None = None) -> HostSpec:
    """The actor's argument: flags, and the content of the certificates that the machine must have, read from `pki`
    (default: the operator's)."""
    folders = Folders(data_dir, state, placement.machine)
    source = pki or data_dir / "pki"
    files = {str(folders.pki / name): (source / name).read_bytes() for name in placement.certificates}
    return HostSpec(
        name=placement.name,
        services=list(placement.services),
        files=files,
        log_file=str(folders.log(placement.component)),
        containers_of=(state.id, placement.machine.name) if placement.component == "kubelet" else ("", ""),
    )


def find(name: str) -> Any:
    """The handle of the actor `name`; None when there is none that lives or is being restarted."""
    try:
        return _ray().get_actor(name)
    except ValueError:
        return None


def store_hosts(state: ClusterState, data_dir: Path) -> list[str]:
    """The machines that have an actor for a member of the store, living or to be restarted."""
    return [machine.name for machine in state.machines if find(kv_placement(state, machine, data_dir).name) is not None]


def note_store(state: ClusterState, data_dir: Path) -> bool:
    """Brings `state.store` up to date: the stewards may have moved members. Returns whether it changed."""
    hosts = store_hosts(state, data_dir)
    moved = sorted(hosts) != sorted(machine.name for machine in state.store_machines)
    # In the middle of a start or an end of the cluster only some are there.
    if len(hosts) < len(state.control_plane) or not moved:
        return False
    state.store = hosts
    return True


def start(placement: Placement, state: ClusterState, data_dir: Path, pki: Path | None = None) -> Any:
    """The actor of `placement`, made if it does not exist. Returns at once; `wait_ready` waits."""
    existing = find(placement.name)
    if existing is not None:
        return existing
    # The class's name is what `ps` and Ray show of the process: ray::apiserver.
    actor_class = _ray().remote(type(placement.component, (ComponentHost,), {}))
    return actor_class.options(
        name=placement.name,
        lifetime="detached",
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=4,
        num_cpus=0,
        label_selector=label_selector(placement.machine),
    ).remote(spec_of(placement, state, data_dir, pki).model_dump_json())


def wait_ready(name: str, handle: Any, timeout_s: float) -> None:
    """Waits until the placement serves. Raises RayError with its own words when it does not."""
    ray = _ray()
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(1.0, deadline - time.monotonic())
        try:
            problem = ray.get(handle.ready.remote(left_s), timeout=left_s + CALL_TIMEOUT_S)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
            if isinstance(error, ray.exceptions.RayActorError) and time.monotonic() < deadline:
                # Its process ended, or Ray's is not back yet on its machine: Ray starts actors of ours again and again.
                time.sleep(POLL_S)
                continue
            problem = f"its process does not answer ({type(error).__name__})"
        break
    if problem:
        raise RayError(f"{name} did not start: {problem}")


def statuses(placements: Iterable[Placement], timeout_s: float = CALL_TIMEOUT_S) -> dict[str, dict[str, Any]]:
    """Each placement's status by name; those that do not answer in time are missing."""
    ray = _ray()
    pending = {}
    for placement in placements:
        handle = find(placement.name)
        if handle is not None:
            pending[handle.status.remote()] = placement.name
    done, _ = ray.wait(list(pending), num_returns=len(pending), timeout=timeout_s) if pending else ([], [])
    found = {}
    for reference in done:
        try:
            found[pending[reference]] = ray.get(reference)
        except ray.exceptions.RayError:
            continue
    return found


def wait_healthy(placements: list[Placement], timeout_s: float) -> None:
    """Waits until all of `placements` say that they are healthy: the store's members have a leader, and so on."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = statuses(placements)
        sick = [item.name for item in placements if not found.get(item.name, {}).get("healthy")]
        if not sick:
            return
        if time.monotonic() > deadline:
            detail = found.get(sick[0], {}).get("detail", "no answer")
            raise RayError(f"{sick[0]} is not healthy: {detail}")
        time.sleep(POLL_S)


def stop(placements: Iterable[Placement], timeout_s: float) -> None:
    """Stops the services of `placements` gracefully, all at once, and ends their actors. Dead machines are left out."""
    ray = _ray()
    alive = {value for node in live_nodes() for value in node["Labels"].values()}
    reachable = [item for item in placements if alive.issuperset(label_selector(item.machine).values())]
    handles = [handle for handle in (find(item.name) for item in reachable) if handle is not None]
    calls = [handle.stop.remote(timeout_s) for handle in handles]
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=timeout_s + 1)
    for handle in handles:
        ray.kill(handle, no_restart=True)


def end(name: str) -> None:
    """Ends the actor `name`, if there is one; it does not come back. Its machine may be dead."""
    handle = find(name)
    if handle is not None:
        _ray().kill(handle, no_restart=True)
