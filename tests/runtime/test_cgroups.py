"""Control groups end with their containers, whichever of runtime and shim goes first, and however."""

import os
import signal
from pathlib import Path

import pytest

from raykube.pb import cri_pb2
from raykube.runtime.cgroups import Controller
from raykube.runtime.processes import start_time
from tests.kit.require import missing
from tests.kit.waiting import until
from tests.runtime.conftest import Machine

pytestmark = pytest.mark.integration


def levels(machine: Machine) -> set[Path]:
    """The directories of the runtime, one for each controller."""
    assert machine.service._runtime is not None
    found = {one.directory for one in machine.service._runtime._cgroups._controllers.values()}
    if not found:
        missing("this user may write no control group")
    return found


async def shim_of(machine: Machine, container: str) -> int:
    assert machine.service._runtime is not None
    started = machine.service._runtime.container(container).record.started
    assert started is not None
    return started.shim_pid


async def test_a_stopped_runtime_leaves_no_levels(machine: Machine) -> None:
    directories = levels(machine)
    assert all(directory.is_dir() for directory in directories)
    await machine.stop()
    assert not any(directory.parent.exists() for directory in directories)
    await machine.start()


async def test_the_last_container_takes_the_levels_with_it(machine: Machine) -> None:
    directories = levels(machine)
    container = await machine.run(await machine.sandbox(), "sleep", "1000")
    shim = await shim_of(machine, container)
    await machine.stop()
    assert all(list(directory.iterdir()) for directory in directories)
    os.kill(shim, signal.SIGTERM)
    await until(lambda: not any(directory.parent.exists() for directory in directories))
    await machine.start()
    again = await machine.run(await machine.sandbox("b"), "sleep", "1000")
    assert all((directory / again).is_dir() for directory in directories)
    await machine.stop_container(again)
    await until(lambda: not any((directory / again).exists() for directory in directories))


async def test_what_a_killed_shim_left_is_swept(machine: Machine) -> None:
    directories = levels(machine)
    container = await machine.run(await machine.sandbox(), "sleep", "1000")
    running = await machine.run(await machine.sandbox("b"), "sleep", "1000")
    shim, pid = await shim_of(machine, container), await machine.pid(container)
    await machine.stop()
    os.kill(shim, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    await until(lambda: start_time(shim) is None and start_time(pid) is None)
    await machine.start()
    assert (await machine.status(container)).state == cri_pb2.CONTAINER_EXITED
    await machine.stop()
    await machine.start()  # the kernel may have been late with the first one
    assert not any((directory / container).exists() for directory in directories)
    assert all((directory / running).is_dir() for directory in directories)


@pytest.mark.parametrize("late", ["raykube/c", "raykube/c/n", "raykube/c/n/group"])
@pytest.mark.parametrize("times", [1, 3])
def test_levels_that_vanish_while_groups_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str, times: int
) -> None:
    """Just before a directory is made, others remove the levels above it, which are empty still."""
    controller = Controller("cpu", tmp_path, Path("raykube/c/n"), 1)
    mkdir = os.mkdir

    def late_mkdir(path: Path) -> None:
        nonlocal times
        if times and path == tmp_path / late:
            times -= 1
            for level in path.relative_to(tmp_path).parents[:-1]:
                os.rmdir(tmp_path / level)
        mkdir(path)

    monkeypatch.setattr(os, "mkdir", late_mkdir)
    controller.make("group")
    assert times == 0
    assert (controller.directory / "group").is_dir()
