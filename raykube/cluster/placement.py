"""Placements made real: one Ray actor for each, detached, restarted for ever, on exactly its machine.

Nothing here is on the data path, and no call waits for ever: Ray's head may be dead. Ray reads its environment when it
is imported, so it is imported by `connect`, after the environment is set.
"""

import logging
import signal
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raykube.cluster import facts as host
from raykube.cluster import leftovers, ray_nodes, settings
from raykube.cluster.actor import ComponentHost, HostSpec
from raykube.cluster.facts import Facts
from raykube.cluster.plan import Folders, Placement
from raykube.cluster.state import ClusterState, Machine

CALL_TIMEOUT_S = 5.0
CLEAR_TIMEOUT_S = 60.0  # containers have grace periods of their own
LOOK_TIMEOUT_S = 60.0  # a machine's first process of Ray loads Python and this package
SILENCE = f"no answer within {LOOK_TIMEOUT_S:.0f} s: is it on? Ray takes minutes to notice a lost machine"
POLL_S = 0.1
THIS_RAY = "auto"  # in place of an address: the Ray that runs on this computer
STORE_PREFIX = "kv-"  # of the names of the actors with members of the store


class RayError(OSError):
    """Ray does not do what was asked; the message is for the operator."""


def _ray() -> Any:
    import ray
    import ray.exceptions

    return ray


def connect(state: ClusterState, data_dir: Path) -> None:
    """Connects this process to the cluster's Ray. Raises RayError when it does not answer."""
    if state.gcs_address != THIS_RAY and not (state.gcs_address and ray_nodes.answers(state.gcs_address)):
        hint = "start the cluster with 'raykube up'" if state.local else 'is it on? README, "Ray\'s head"'
        raise RayError(f"Ray at {state.gcs_address or '(none)'} does not answer: {hint}")
    if state.local:
        settings.apply_environment(ray_nodes.ray_environment(data_dir))
    else:
        settings.apply_environment(settings.ray_authentication(settings.RAY_TOKEN_FILE))
    with _signals_held():  # a module whose import was cut short stays broken
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


def gcs_address() -> str:
    """The GCS of the Ray that this process, a driver or a worker, is connected to."""
    return str(_ray().get_runtime_context().gcs_address)


def live_nodes() -> list[dict[str, Any]]:
    """Ray's live nodes, as `ray.nodes()` describes them."""
    return [node for node in nodes() if node["Alive"]]


def nodes() -> list[dict[str, Any]]:
    """Ray's nodes, those it remembers as dead too. Blocks while the GCS is dead."""
    found: list[dict[str, Any]] = _ray().nodes()
    return found


def is_alive(machine: Machine, state: ClusterState, live: Iterable[dict[str, Any]]) -> bool:
    """Whether `machine` is among Ray's live nodes."""
    if state.local:
        return any(node["Labels"].get(ray_nodes.MACHINE_LABEL) == machine.name for node in live)
    return any(node["NodeManagerAddress"] == machine.address for node in live)


def pin(machine: Machine, state: ClusterState) -> dict[str, Any]:
    """The options that put an actor on exactly `machine`. A soft affinity may land elsewhere.

    A Ray node offers a resource named after its address: an actor comes back on a host whose Ray was started anew.
    """
    if state.local:
        return {"label_selector": {ray_nodes.MACHINE_LABEL: machine.name}}
    return {"resources": {f"node:{machine.address}": 0.001}}


def call_at(addresses: Iterable[str], function: Any, *arguments: str) -> dict[str, Any]:
    """Calls `function` on each of the Ray nodes at `addresses`; returns answers, or the error, by address."""
    ray = _ray()
    remote = ray.remote(function)
    pending = {}
    for address in addresses:
        options = {"num_cpus": 0, "max_retries": 0, "resources": {f"node:{address}": 0.001}}
        pending[address] = remote.options(**options).remote(*[text.replace("{address}", address) for text in arguments])
    ray.wait(list(pending.values()), num_returns=len(pending), timeout=LOOK_TIMEOUT_S)
    answers: dict[str, Any] = {}
    for address, reference in pending.items():
        try:
            answers[address] = ray.get(reference, timeout=0.1)
        except Exception as error:
            ray.cancel(reference, force=True)
            answers[address] = error
    return answers


def look(live: Iterable[dict[str, Any]], data_dir: Path) -> tuple[list[Facts], dict[str, str]]:
    """What the machines of Ray nodes say of themselves, in their order, and by address why the others say nothing."""
    by_address = {node["NodeManagerAddress"]: node for node in live}
    found, failed = [], {}
    for address, answer in call_at(by_address, host.look, "{address}", str(data_dir)).items():
        if not isinstance(answer, str):
            failed[address] = _reason(answer)
            continue
        try:
            facts, node = Facts.model_validate_json(answer), by_address[address]
        except ValidationError:
            failed[address] = "speaks as another version of raykube does: install the same on all machines"
            continue
        found.append(facts.model_copy(update={"labels": node["Labels"], "resources": node["Resources"]}))
    return found, failed


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return SILENCE
    text = str(error)
    if "ModuleNotFoundError" in text or "raykube" in text:
        return "raykube is not installed there: install the same version in the Python that runs Ray"
    return text.splitlines()[-1] if text else type(error).__name__


def authority_at(address: str, data_dir: Path) -> dict[str, bytes]:
    """The files at `address` from which the cluster's certificates are made."""
    answer = call_at([address], host.authority, str(data_dir))[address]
    return answer if isinstance(answer, dict) else {}


def spec_of(placement: Placement, state: ClusterState, data_dir: Path) -> HostSpec:
    """The actor's argument: flags, and the content of the certificates that the machine must have."""
    folders = Folders(data_dir, state, placement.machine)
    source = data_dir / "pki"
    files = {str(folders.pki / name): (source / name).read_bytes() for name in placement.certificates}
    files |= {str(source / name): (source / name).read_bytes() for name in placement.authority}
    return HostSpec(
        name=placement.name,
        services=list(placement.services),
        files=files,
        log_file=str(folders.log(placement.file_name)),
        spec_file=str(folders.spec(placement.file_name)),
        generation=state.generation,
        dated=time.time(),
        cluster=state.id,
        containers_of=(state.id, placement.machine.name) if placement.component == "kubelet" else ("", ""),
    )


def find(name: str) -> Any:
    """The handle of the actor `name`; None when there is none that lives or is being restarted."""
    try:
        return _ray().get_actor(name)
    except ValueError:
        return None


def names() -> set[str]:
    """The names of this cluster's actors: those that live, wait for their machine, or are being restarted."""
    _ray()
    from ray.util import list_named_actors

    return set(list_named_actors())


def store_hosts(state: ClusterState, existing: Collection[str]) -> set[str]:
    """The machines that have an actor for a member of the store, given the names of all actors."""
    return {machine.name for machine in state.machines if STORE_PREFIX + machine.name in existing}


def ask(
    state: ClusterState, component: str, question: str, argument: str = "", timeout_s: float = CALL_TIMEOUT_S
) -> list[str]:
    """The answers of all actors of a component on live machines that answer in time."""
    ray = _ray()
    live = live_nodes()
    away = {f"{component}-{machine.name}" for machine in state.machines if not is_alive(machine, state, live)}
    asked = sorted(name for name in names() - away if name.startswith(f"{component}-"))
    handles = [handle for handle in map(find, asked) if handle is not None]
    calls = [handle.ask.remote(question, argument) for handle in handles]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=timeout_s) if calls else ([], [])
    answers = []
    for call in done:
        try:
            answers.append(str(ray.get(call)))
        except ray.exceptions.RayError:
            continue
    return answers


def handed_over(state: ClusterState) -> ClusterState | None:
    """The newest record that the stewards of a running cluster know; None when no steward answers."""
    found = [ClusterState.model_validate_json(answer) for answer in ask(state, "kv", "record") if answer]
    return max(found, key=lambda each: each.generation, default=None)


def start(placement: Placement, state: ClusterState, data_dir: Path) -> Any:
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
        **pin(placement.machine, state),
    ).remote(spec_of(placement, state, data_dir).model_dump_json())


def renew(placements: Iterable[Placement], state: ClusterState, data_dir: Path) -> None:
    """Tells actors what to be when they are made again. Does not wait for them."""
    for placement in placements:
        handle = find(placement.name)
        if handle is not None:
            handle.renew.remote(spec_of(placement, state, data_dir).model_dump_json())


def renew_files(placements: Iterable[Placement], state: ClusterState, data_dir: Path) -> None:
    """Puts the certificates that `data_dir` has now on the machines of actors, which use them at once.

    Waits CALL_TIMEOUT_S at most: an actor that does not answer by then has it to do.
    """
    ray = _ray()
    calls = []
    for placement in placements:
        handle = find(placement.name)
        if handle is not None:
            calls.append(handle.renew_files.remote(spec_of(placement, state, data_dir).model_dump_json()))
    if calls:
        ray.wait(calls, num_returns=len(calls), timeout=CALL_TIMEOUT_S)


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


def stop(
    placements: Iterable[Placement], state: ClusterState, timeout_s: float, *, clear: bool = False
) -> dict[str, str]:
    """Stops the services of `placements` gracefully, all at once, and ends their actors. Dead machines are left out.

    With `clear`, what services leave behind on purpose (containers, network rules) goes too; returns why it did not, by
    actor.
    """
    live = live_nodes()
    return end_softly([item.name for item in placements if is_alive(item.machine, state, live)], timeout_s, clear=clear)


def end_softly(actors: Iterable[str], timeout_s: float, *, clear: bool = False) -> dict[str, str]:
    """Stops the services of the actors so named, all at once, and ends them; they do not come back.

    Returns why something that they left is still there, by actor: nothing without `clear`.
    """
    ray = _ray()
    handles = {name: handle for name in actors if (handle := find(name)) is not None}
    calls = {name: handle.stop.remote(timeout_s, clear) for name, handle in handles.items()}
    limit_s = timeout_s + (CLEAR_TIMEOUT_S if clear else 1.0)
    if calls:
        ray.wait(list(calls.values()), num_returns=len(calls), timeout=limit_s)
    problems = {}
    for name, call in calls.items() if clear else ():
        try:
            problem = ray.get(call, timeout=0.1)
        except ray.exceptions.GetTimeoutError:
            problem = f"it did not end within {limit_s:.0f} s"
        except ray.exceptions.RayError as error:
            problem = f"its process ended meanwhile ({type(error).__name__})"
        if problem:
            problems[name] = problem
    for handle in handles.values():
        ray.kill(handle, no_restart=True)
    return problems


def clear_leftovers(state: ClusterState, data_dir: Path, machines: Iterable[Machine]) -> dict[str, str]:
    """Takes away what the cluster still has on `machines`, which have no actors; returns why it did not, by actor."""
    addresses = {machine.address: machine for machine in machines}
    found = call_at(addresses, leftovers.clear, "{address}", state.model_dump_json(), str(data_dir))
    problems: dict[str, str] = {}
    for address, answer in found.items():
        if isinstance(answer, dict):
            problems |= answer
        else:
            text = (str(answer).splitlines() or [type(answer).__name__])[-1]
            problems[f"kubelet-{addresses[address].name}"] = SILENCE if isinstance(answer, TimeoutError) else text
    return problems


def end(name: str) -> None:
    """Ends the actor `name` at once, if there is one; it does not come back. Its machine may be dead."""
    handle = find(name)
    if handle is not None:
        _ray().kill(handle, no_restart=True)
