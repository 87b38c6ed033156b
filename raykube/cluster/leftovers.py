"""What a cluster still has on a machine that has no actors: pods and rules that could not be taken away at their end.

Each actor's spec lies on its machine from its start until all that it left there is gone (`actor.clear_all`). So where
specs are and no actor is, something went wrong: the container runtime did not answer, or the machine was away. What is
left is taken away here, as a task of Ray's on the machine, without any actor.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop

from raykube.cluster import processes
from raykube.cluster.actor import CLEAR_TIMEOUT_S, CONTAINER_GRACE_S, RETRY_S, HostSpec, clear_all
from raykube.cluster.plan import COMPONENTS, PACKAGES, Folders, plan
from raykube.cluster.state import ClusterState

Flags = tuple[str, dict[str, Any]]  # a service: package, flags

# Services that a kubelet needs to end its pods.
RUNTIMES = (PACKAGES["runtime"], PACKAGES["cri-docker"])
START_TIMEOUT_S = 10.0


def specs(folder: Path, cluster: str) -> list[HostSpec]:
    """The specs in `folder` of one cluster, in the order in which their leftovers go: pods before their network."""
    found = []
    for component in reversed(COMPONENTS):
        try:
            spec = HostSpec.model_validate_json((folder / f"{component}.json").read_bytes())
        except (OSError, ValueError):
            continue
        if spec.cluster == cluster:
            found.append(spec)
    return found


def clear(address: str, state_json: str, data_dir: str) -> dict[str, str]:
    """Takes away what the cluster still has on this machine, the one with `address`, where none of its actors runs.

    Returns why something stays, by actor.
    """
    state = ClusterState.model_validate_json(state_json)
    machine = next(machine for machine in state.machines if machine.address == address)
    machine = machine.model_copy(update={"phase": ""})  # one that left has no plan any more
    state = state.model_copy(update={"machines": [machine]})
    folder = Folders(Path(data_dir), state, machine).specs
    services = [service for item in plan(state, Path(data_dir)) for service in item.services]
    runtimes = [service for service in services if service[0] in RUNTIMES]
    asyncio.set_event_loop_policy(None)  # as an actor does: pyroute2's loops cannot be uvloop's
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(clear_here(specs(folder, state.id), runtimes))


async def clear_here(found: Iterable[HostSpec], runtimes: Iterable[Flags]) -> dict[str, str]:
    """Clears up after each of `found`; returns why something stays, by name. `runtimes`: what kubelets need running."""
    problems = {}
    for spec in found:
        is_kubelet = any(package == PACKAGES["kubelet"] for package, _ in spec.services)
        try:
            async with asyncio.timeout(CLEAR_TIMEOUT_S), _running(runtimes if is_kubelet else ()):
                problem = await clear_all(spec, [_service(*each) for each in reversed(spec.services)])
        except TimeoutError:
            problem = f"it did not end within {CLEAR_TIMEOUT_S:.0f} s"
        except (OSError, ValueError) as error:
            problem = str(error)
        if spec.containers_of[0]:
            processes.end(*spec.containers_of, role="", grace_s=CONTAINER_GRACE_S)
        if problem:
            problems[spec.name] = problem
            if is_kubelet:
                break  # pods keep their network until they have ended
    return problems


def _service(package: str, flags: dict[str, Any]) -> Any:
    config = importlib.import_module(f"{package}.config").Config(**flags)
    return importlib.import_module(f"{package}.service").Service(config)


@asynccontextmanager
async def _running(services: Iterable[Flags]) -> AsyncIterator[None]:
    """Runs services meanwhile. Raises OSError when one does not start."""
    running: list[Any] = []
    try:
        for package, flags in services:
            running.append(await _started(package, flags))
        yield
    finally:
        for service in reversed(running):
            await service.stop()


async def _started(package: str, flags: dict[str, Any]) -> Any:
    """A started service; what an actor that was killed just now held, its lock and its socket, is waited for."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while True:
        service = _service(package, flags)
        try:
            await service.start()
            return service
        except OSError:
            await service.stop()
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(RETRY_S)
