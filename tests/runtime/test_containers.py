"""The runtime with real processes."""

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.runtime import containers, processes
from tests.kit.require import missing
from tests.kit.waiting import until
from tests.runtime.conftest import Machine, leftovers

pytestmark = pytest.mark.integration

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) [FP] ")


async def test_output_exit_code_and_log_format(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sh", "-c", "echo out; echo err >&2; printf unfinished; exit 7")
    status = await machine.exited(container)
    assert (status.exit_code, status.reason) == (7, "Error")
    assert status.started_at <= status.finished_at
    lines = Path(status.log_path).read_text().splitlines()
    assert all(LINE.match(line) for line in lines)
    assert sorted(line.split(" ", 1)[1] for line in lines) == ["stderr F err", "stdout F out", "stdout P unfinished"]


async def test_long_lines_are_split(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    status = await machine.exited(container)
    parts = [line.split(" ", 3) for line in Path(status.log_path).read_text().splitlines()]
    assert "".join(part[3] for part in parts) == "x" * 40000
    assert [part[2] for part in parts] == ["P", "P", "F"]
    assert max(len(part[3]) for part in parts) == 16384


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["no-such-program"], 'exec: "no-such-program": executable file not found in $PATH'),
        (["/etc/passwd"], 'exec: "/etc/passwd": Permission denied'),
    ],
)
async def test_a_program_that_cannot_start(machine: Machine, command: list[str], message: str) -> None:
    sandbox = await machine.sandbox()
    container = await machine.create(sandbox, *command)
    with pytest.raises(RpcError, match=re.escape(message)):
        await machine.start_container(container)
    status = await machine.status(container)
    assert (status.state, status.exit_code, status.reason) == (cri_pb2.CONTAINER_EXITED, 128, "StartError")
    assert status.message == message


async def test_a_container_without_command_is_refused(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    with pytest.raises(RpcError) as caught:
        await machine.create(sandbox, name="web")
    assert caught.value.message == 'the process runtime has no images: set "command" in container "web"'


async def test_environment_and_directory(machine: Machine) -> None:
    sandbox = await machine.sandbox("named")
    container = await machine.run(
        sandbox,
        "sh",
        "-c",
        "echo $HOSTNAME $RAYKUBE_MACHINE $RAYKUBE_CLUSTER $X; pwd; hostname",
        envs=[cri_pb2.KeyValue(key="X", value=b"y")],
        working_dir="/usr/lib",
    )
    assert await machine.output(container) == f"named m1 {machine.root.name} y\n/usr/lib\nnamed"


async def test_sandbox_addresses_are_not_reused_soon(machine: Machine) -> None:
    async def address(sandbox: str) -> str:
        answer = await machine.cri.PodSandboxStatus(cri_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
        return str(answer.status.network.ip)

    first, second = await machine.sandbox("a"), await machine.sandbox("b")
    assert [await address(first), await address(second)] == ["127.77.3.1", "127.77.3.2"]
    await machine.cri.RemovePodSandbox(cri_pb2.RemovePodSandboxRequest(pod_sandbox_id=first))
    await machine.stop()
    await machine.start()
    assert await address(await machine.sandbox("c")) == "127.77.3.3"
    assert await address(second) == "127.77.3.2"


async def test_stop_asks_first_and_kills_everything_later(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    polite = await machine.run(sandbox, "sh", "-c", "trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done")
    await asyncio.sleep(0.3)
    await machine.stop_container(polite, 20)
    assert (await machine.status(polite)).exit_code == 3
    stubborn = await machine.run(
        sandbox, "sh", "-c", "trap '' TERM; (setsid setsid sleep 1000 &) ; while :; do sleep 0.05; done"
    )
    await asyncio.sleep(0.3)
    await machine.stop_container(stubborn, 1)
    status = await machine.status(stubborn)
    assert status.exit_code == 137
    assert not leftovers(machine.root.name)


async def test_the_end_of_the_program_ends_what_it_left(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sh", "-c", "(setsid sleep 1000 &) ; exit 0")
    assert (await machine.exited(container)).reason == "Completed"
    assert not leftovers(machine.root.name)


async def test_containers_outlive_the_runtime(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sh", "-c", "sleep 0.5; echo one; exec sleep 1000")
    ended = await machine.run(sandbox, "sh", "-c", "exit 4")
    ends_meanwhile = await machine.run(sandbox, "sh", "-c", "sleep 0.3; exit 5")
    await machine.exited(ended)
    pid = await machine.pid(container)
    await machine.stop()
    await asyncio.sleep(0.6)
    await machine.start()
    assert await machine.pid(container) == pid
    assert (await machine.status(container)).state == cri_pb2.CONTAINER_RUNNING
    assert (await machine.status(ended)).exit_code == 4
    assert (await machine.exited(ends_meanwhile)).exit_code == 5
    await machine.stop_container(container)
    assert (await machine.status(container)).exit_code == 137
    assert await machine.output(container) == "one"


async def test_a_killed_shim_ends_its_container(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sh", "-c", "(setsid sleep 1000 &); sleep 1001")
    shim = machine.service._runtime.container(container).record.started.shim_pid  # type: ignore[union-attr]
    os.kill(shim, signal.SIGKILL)
    status = await machine.exited(container)
    assert (status.exit_code, status.reason) == (137, "ContainerStatusUnknown")
    assert not leftovers(machine.root.name)


async def test_a_runtime_that_dies_while_a_container_starts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody hears how the start went; the container runs on, and the next runtime learns how it ends."""

    async def dies(*_: Any) -> bytes:
        raise ConnectionResetError

    os.mkfifo(machine.root / "gate")
    container = await machine.create(
        await machine.sandbox(), "sh", "-c", "read x < gate; exit 7", working_dir=str(machine.root)
    )
    with monkeypatch.context() as patch:
        patch.setattr(processes, "read_all", dies)
        with pytest.raises(RpcError):
            await machine.start_container(container)
    await machine.stop()
    await until((machine.root / "state" / "containers" / container / "started.json").exists)
    await machine.start()
    assert (await machine.status(container)).state == cri_pb2.CONTAINER_RUNNING
    (machine.root / "gate").write_text("go\n")
    assert (await machine.exited(container)).exit_code == 7


async def test_a_shim_killed_while_the_runtime_is_away(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sleep", "1000")
    shim = machine.service._runtime.container(container).record.started.shim_pid  # type: ignore[union-attr]
    await machine.stop()
    os.kill(shim, signal.SIGKILL)
    await machine.start()
    assert (await machine.exited(container)).exit_code == 137
    assert not leftovers(machine.root.name)


async def test_a_container_starts_once(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.create(sandbox, "sh", "-c", "echo ran; sleep 0.2")
    results = await asyncio.gather(*(machine.start_container(container) for _ in range(3)), return_exceptions=True)
    assert sum(result is None for result in results) == 1
    assert all(isinstance(error, RpcError) for error in results if error is not None)
    assert await machine.output(container) == "ran"


@pytest.mark.parametrize("how", ["StopContainer", "StopPodSandbox", "RemoveContainer", "RemovePodSandbox"])
async def test_what_is_stopped_while_it_starts_does_not_run(
    machine: Machine, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod that is deleted when its container starts: who asked for the start has left, and nothing may be left."""
    start_shim, begun = processes.start_shim, asyncio.Event()

    async def starts(*arguments: Any) -> None:
        begun.set()
        await start_shim(*arguments)

    monkeypatch.setattr(processes, "start_shim", starts)
    sandbox = await machine.sandbox()
    container = await machine.create(sandbox, "sleep", "1000")
    starting = asyncio.ensure_future(machine.start_container(container))
    await begun.wait()
    starting.cancel()
    request = getattr(cri_pb2, f"{how}Request")
    subject = {"pod_sandbox_id": sandbox} if how.endswith("Sandbox") else {"container_id": container}
    await getattr(machine.cri, how)(request(**subject))
    assert not leftovers(machine.root.name)
    if how.startswith("Stop"):
        assert (await machine.status(container)).state == cri_pb2.CONTAINER_EXITED
    else:
        assert not list((machine.root / "state" / "containers").iterdir())


@pytest.mark.parametrize("how", ["StopContainer", "RemovePodSandbox"])
async def test_a_start_that_hangs_holds_up_no_end(machine: Machine, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "START_WAIT_S", 0.5)
    sandbox = await machine.sandbox()
    container = await machine.create(sandbox, "sleep", "1000")
    log = Path((await machine.status(container)).log_path)
    log.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(log)  # to open it never ends
    starting = asyncio.ensure_future(machine.start_container(container))
    await until((machine.root / "state" / "containers" / container / "claim").exists)
    subject = {"pod_sandbox_id": sandbox} if how.endswith("Sandbox") else {"container_id": container}
    await getattr(machine.cri, how)(getattr(cri_pb2, f"{how}Request")(**subject), timeout=10)
    with pytest.raises(RpcError):
        await starting
    assert not leftovers(machine.root.name)


async def test_exec(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(
        sandbox, "sleep", "1000", envs=[cri_pb2.KeyValue(key="X", value=b"y")], working_dir="/usr"
    )

    async def execute(*command: str, timeout: int = 10) -> cri_pb2.ExecSyncResponse:
        request = cri_pb2.ExecSyncRequest(container_id=container, cmd=command, timeout=timeout)
        answer: cri_pb2.ExecSyncResponse = await machine.cri.ExecSync(request)
        return answer

    answer = await execute("sh", "-c", "echo $X $PWD; hostname; echo bad >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"y /usr\npod\n", b"bad\n", 3)
    assert (await execute("nothing-here")).exit_code == 127
    with pytest.raises(RpcError) as caught:
        await execute("sh", "-c", "sleep 500 & sleep 501", timeout=1)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "context",
    [
        {"run_as_user": cri_pb2.Int64Value(value=4321), "supplemental_groups": [77, 78]},
        {"run_as_user": cri_pb2.Int64Value(value=0)},
        {"run_as_group": cri_pb2.Int64Value(value=4322)},
        {"supplemental_groups": [77], "no_new_privs": True},
        {},
    ],
    ids=["user and groups", "root", "group", "groups without privileges", "none"],
)
async def test_a_command_is_who_the_program_is(machine: Machine, context: dict[str, Any]) -> None:
    """A probe must be able to read what the program reads, and may no more than that; also where nobody is root."""
    security = cri_pb2.LinuxContainerSecurityContext(**context)
    sandbox = await machine.sandbox()
    who = "id -u; id -G; grep NoNewPrivs /proc/self/status; umask"
    container = await machine.run(
        sandbox,
        "sh",
        "-c",
        f"{who}; exec sleep 1000",
        linux=cri_pb2.LinuxContainerConfig(security_context=security),
    )
    log = Path((await machine.status(container)).log_path)
    await until(lambda: len(log.read_text().splitlines()) == 4)
    program = [line.split(" ", 3)[3] for line in log.read_text().splitlines()]
    request = cri_pb2.ExecSyncRequest(container_id=container, cmd=["sh", "-c", who], timeout=10)
    command = (await machine.cri.ExecSync(request)).stdout.decode().splitlines()
    assert command == program


async def test_log_rotation(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    os.mkfifo(machine.root / "gate")
    container = await machine.run(
        sandbox, "sh", "-c", "echo one; read x < gate; echo two", working_dir=str(machine.root)
    )
    log = Path((await machine.status(container)).log_path)
    await until(lambda: "one" in log.read_text())
    log.rename(log.with_suffix(".old"))
    await machine.cri.ReopenContainerLog(cri_pb2.ReopenContainerLogRequest(container_id=container))
    await until(log.exists)
    (machine.root / "gate").write_text("go\n")
    await machine.exited(container)
    assert log.read_text().endswith("stdout F two\n")
    assert log.with_suffix(".old").read_text().endswith("stdout F one\n")


async def test_a_log_that_cannot_be_opened_anew_ends_no_container(machine: Machine) -> None:
    """The disk is full, or somebody removed the directory: the old file is written on until one can be made."""
    sandbox = await machine.sandbox()
    for gate in ("first", "second"):
        os.mkfifo(machine.root / gate)
    script = "echo one; read x < first; echo two; read x < second; echo three; exit 7"
    container = await machine.run(sandbox, "sh", "-c", script, working_dir=str(machine.root))
    log = Path((await machine.status(container)).log_path)
    await until(lambda: "one" in log.read_text())
    old = log.parent.rename(log.parent.with_name("aside")) / log.name
    reopen = cri_pb2.ReopenContainerLogRequest(container_id=container)
    await machine.cri.ReopenContainerLog(reopen)
    (machine.root / "first").write_text("go\n")
    await until(lambda: "two" in old.read_text())
    log.parent.mkdir()
    await machine.cri.ReopenContainerLog(reopen)
    await until(log.exists)
    (machine.root / "second").write_text("go\n")
    assert (await machine.exited(container)).exit_code == 7
    assert log.read_text().endswith("stdout F three\n")


async def test_events(machine: Machine) -> None:
    seen: list[tuple[str, int]] = []

    async def listen() -> None:
        async for event in machine.cri.GetContainerEvents(cri_pb2.GetEventsRequest()):
            seen.append((event.container_id, event.container_event_type))  # noqa: PERF401 - read while it grows

    task = asyncio.create_task(listen())
    await until(lambda: machine.service._runtime.events.wanted)
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "true")
    await machine.exited(container)
    await machine.cri.RemoveContainer(cri_pb2.RemoveContainerRequest(container_id=container))
    await until(lambda: (container, cri_pb2.CONTAINER_DELETED_EVENT) in seen)
    assert [kind for subject, kind in seen if subject == container] == [0, 1, 2, 3]
    task.cancel()


async def test_terminal(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "sh", "-c", "test -t 1 && test -t 0 && echo terminal", tty=True)
    assert (await machine.output(container)).strip() == "terminal"


async def test_memory_limit_kills(machine: Machine) -> None:
    if "memory" not in machine.service._runtime.limits:  # type: ignore[union-attr]
        missing("this user may write no memory control group")
    sandbox = await machine.sandbox()
    config = cri_pb2.LinuxContainerConfig(resources=cri_pb2.LinuxContainerResources(memory_limit_in_bytes=32 << 20))
    container = await machine.run(sandbox, "python3", "-c", "x = bytearray(200 << 20)", linux=config)
    status = await machine.exited(container)
    assert (status.exit_code, status.reason) == (137, "OOMKilled")
    groups = machine.service._runtime._cgroups._directories(container)  # type: ignore[union-attr]
    assert groups
    assert not any(group.exists() for group in groups)


async def test_fifty_containers_at_once(machine: Machine) -> None:
    async def one(number: int) -> str:
        sandbox = await machine.sandbox(f"p{number}")
        return await machine.run(sandbox, "sh", "-c", f"echo {number}")

    containers = await asyncio.gather(*(one(number) for number in range(50)))
    assert [await machine.output(container) for container in containers] == [str(number) for number in range(50)]
    listed = await machine.cri.ListContainers(cri_pb2.ListContainersRequest())
    assert len(listed.containers) == 50
