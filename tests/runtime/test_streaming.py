"""Exec, attach and port-forward of the process runtime, as a kubelet asks for them."""

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.runtime.containers import Entry
from raykube.runtime.execution import Command
from raykube.streaming.core import channels, http1, pairs
from raykube.streaming.core.channels import Channel
from raykube.streaming.wire import dial
from tests.kit.streams import Forwarder, Session, connected, read_all
from tests.kit.waiting import until
from tests.runtime.conftest import Machine

pytestmark = pytest.mark.integration

LISTENER = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
while True:
    client, _ = server.accept()
    data = b""
    while part := client.recv(65536):
        data += part
    client.sendall(str(len(data)).encode() + data[:5] + b"!" * int(sys.argv[2]))
    client.close()
"""


async def exec_session(
    machine: Machine, container: str, *command: str, stdin: bool = False, tty: bool = False, reading: bool = True
) -> Session:
    request = cri_pb2.ExecRequest(
        container_id=container, cmd=command, stdin=stdin, stdout=True, stderr=not tty, tty=tty
    )
    url = (await machine.cri.Exec(request)).url
    return Session(url, channels.streams(stdin, True, not tty, tty), reading=reading)


async def attach_session(machine: Machine, container: str, *, stdin: bool = False, tty: bool = False) -> Session:
    request = cri_pb2.AttachRequest(container_id=container, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
    url = (await machine.cri.Attach(request)).url
    return Session(url, channels.streams(stdin, True, not tty, tty))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


async def test_a_command_runs_in_the_container(machine: Machine) -> None:
    environment = [cri_pb2.KeyValue(key="COLOUR", value=b"green")]
    container = await machine.run(await machine.sandbox(), "sleep", "100", envs=environment, working_dir="/tmp")
    script = "echo $COLOUR $(pwd) $(hostname); echo oops >&2; exit 7"
    async with await exec_session(machine, container, "sh", "-c", script) as session:
        assert await session.code() == 7
        assert (session.stdout, session.stderr) == ("green /tmp pod\n", "oops\n")
        status = await session.status()
    assert status["message"] == "command terminated with non-zero exit code: exit status 7"


async def test_a_command_joins_the_containers_control_groups(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "cat", "/proc/self/cgroup") as session:
        assert await session.code() == 0
        pid = await machine.pid(container)
        assert session.stdout == Path(f"/proc/{pid}/cgroup").read_text()


async def test_input_that_ends_while_output_goes_on(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "sh", "-c", "wc -c; echo done", stdin=True) as session:
        for _ in range(100):
            await session.type(b"x" * 100_000)
        await session.end_input()
        assert await session.code() == 0
        assert session.stdout == "10000000\ndone\n"


async def test_much_output_waits_for_a_slow_client(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    command = ("head", "-c", "20000000", "/dev/zero")
    async with await exec_session(machine, container, *command, reading=False) as session:
        first = await session.streams[Channel.STDOUT].read()
        await asyncio.sleep(1.5)  # longer than the quiet time after an end: nothing of it may be lost
        assert len(first) + len(await read_all(session.streams[Channel.STDOUT])) == 20_000_000


async def test_a_terminal(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "sh", stdin=True, tty=True) as session:
        await session.streams[Channel.RESIZE].write(b'{"Width":111,"Height":22}\n')
        await session.insist("stty size\n", "22 111")
        await session.insist("tty\n", "/dev/pts/")
        await session.streams[Channel.RESIZE].write(b'{"Width":99,"Height":33}')
        await session.insist("stty size\n", "33 99")
        await session.type("echo as''leep; sleep 100\n")
        await session.sees("asleep")
        # The interrupt character: it reaches what runs in the foreground.
        # It also throws away what was typed and printed before it: what follows gets time.
        for _ in range(4):
            await session.type("\x03")
            with suppress(TimeoutError):
                await session.insist("echo aw''ake\n", "awake", 5)
                break
        else:
            raise AssertionError(session.stdout[-600:])
        await session.type("exit 5\n")
        assert await session.code() == 5


async def test_what_cannot_start_says_so(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "no-such-program") as session:
        assert await session.code() == 127
        assert "no-such-program" in session.stderr


async def test_who_leaves_takes_the_command_along(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "sh", "-c", "sleep 100 & echo $$ $!; wait") as session:
        await session.sees("\n")
        pids = [int(pid) for pid in session.stdout.split()]
        assert all(map(alive, pids))
    await until(lambda: not any(map(alive, pids)))
    assert (await machine.status(container)).state == cri_pb2.CONTAINER_RUNNING


async def test_who_leaves_while_nobody_reads_the_input_is_noticed(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "sh", "-c", "echo $$; exec sleep 100", stdin=True) as session:
        await session.sees("\n")
        pid = int(session.stdout)
        typing = asyncio.ensure_future(session.type(b"x" * 8_000_000))
        await asyncio.sleep(0.3)
        typing.cancel()
        session.link.abort()
    await until(lambda: not alive(pid), 30)


async def test_a_background_process_does_not_hold_the_session(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "sh", "-c", "sleep 50 & echo $!") as session:
        assert await session.code() == 0
    assert alive(int(session.stdout))
    await machine.stop_container(container)
    await until(lambda: not alive(int(session.stdout)))


async def test_the_end_of_the_container_ends_its_commands(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    async with await exec_session(machine, container, "sh", "-c", "echo $$; sleep 100") as session:
        await session.sees("\n")
        await machine.stop_container(container)
        assert await session.code() == 137


async def test_a_ticket_is_good_once(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100")
    url = (await machine.cri.Exec(cri_pb2.ExecRequest(container_id=container, cmd=["true"], stdout=True))).url
    async with Session(url, channels.streams(False, True, False, False)) as session:
        assert await session.code() == 0
    again = await dial(url, "POST", http1.spdy_headers(channels.V4))
    assert again.head.status == 404
    unknown = await dial(url.rpartition("/")[0] + "/guess", "POST", http1.spdy_headers(channels.V4))
    assert unknown.head.status == 404


async def test_refusals(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    container = await machine.run(sandbox, "true")
    await machine.exited(container)
    with pytest.raises(RpcError) as caught:
        await machine.cri.Exec(cri_pb2.ExecRequest(container_id=container, cmd=["true"], stdout=True))
    assert caught.value.code is Code.FAILED_PRECONDITION
    with pytest.raises(RpcError) as caught:
        await machine.cri.Attach(cri_pb2.AttachRequest(container_id="nothing", stdout=True))
    assert caught.value.code is Code.NOT_FOUND
    running = await machine.run(sandbox, "sleep", "100")
    with pytest.raises(RpcError, match="tty and stderr"):
        await machine.cri.Attach(cri_pb2.AttachRequest(container_id=running, stdout=True, stderr=True, tty=True))
    url = (await machine.cri.Exec(cri_pb2.ExecRequest(container_id=running, cmd=["true"], stdout=True))).url
    assert (await dial(url, "POST", http1.spdy_headers("v9.channel.k8s.io"))).head.status == 403


async def test_attach_shows_what_comes_and_passes_input_on(machine: Machine) -> None:
    script = "while read line; do echo got $line; echo err $line >&2; done; echo end of input"
    container = await machine.run(await machine.sandbox(), "sh", "-c", script, stdin=True, stdin_once=True)
    async with (
        await attach_session(machine, container, stdin=True) as session,
        await attach_session(machine, container) as watcher,
    ):
        await session.insist("one\n", "got one")
        await session.type("two\n")
        await session.sees("got two")
        async with asyncio.timeout(20):
            while "got again" not in watcher.stdout:
                await session.type("again\n")
                await asyncio.sleep(0.05)
        await session.end_input()
        assert await session.code() == 0
        assert session.stdout.endswith("end of input\n")
        assert session.stderr == session.stdout.replace("got", "err").removesuffix("end of input\n")
        assert await watcher.code() == 0
    assert "got two" in await machine.output(container)


async def test_attach_leaves_the_container_running(machine: Machine) -> None:
    script = "while read line; do echo got $line; done; echo end of input; sleep 100"
    container = await machine.run(await machine.sandbox(), "sh", "-c", script, stdin=True)
    for word in ("first", "second"):
        async with await attach_session(machine, container, stdin=True) as session:
            await session.type(f"{word}\n")
            await session.sees(f"got {word}")
            await session.end_input()
            assert await session.code() == 0
    assert (await machine.status(container)).state == cri_pb2.CONTAINER_RUNNING
    assert "end of input" not in Path((await machine.status(container)).log_path).read_text()


async def test_attach_to_a_terminal(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sh", stdin=True, tty=True)
    async with await attach_session(machine, container, stdin=True, tty=True) as session:
        await session.streams[Channel.RESIZE].write(b'{"Width":101,"Height":41}')
        await session.insist("stty size\n", "41 101")
        await session.type("exit 3\n")
        await session.status()
    assert (await machine.exited(container)).exit_code == 3


async def test_attached_without_loss_and_without_reading(machine: Machine) -> None:
    """Output waits for who is attached; when that one leaves, it goes on."""
    script = "read go; head -c 5000000 /dev/zero; echo; echo all written"
    container = await machine.run(await machine.sandbox(), "sh", "-c", script, stdin=True, stdin_once=True)
    async with await attach_session(machine, container, stdin=True) as session:
        await session.type("go\n")
        await session.sees("all written", 60)
        assert len(session.stdout) == 5_000_000 + len("\nall written\n")
    script = "read go; exec head -c 60000000 /dev/zero"  # more than all that lies between would hold
    container = await machine.run(await machine.sandbox("two"), "sh", "-c", script, stdin=True, stdin_once=True)
    request = cri_pb2.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=True)
    url = (await machine.cri.Attach(request)).url
    async with Session(url, channels.streams(True, True, True, False), reading=False) as session:
        await session.type("go\n")
        await session.streams[Channel.STDOUT].read()
        await asyncio.sleep(0.5)
        assert (await machine.status(container)).state == cri_pb2.CONTAINER_RUNNING
    assert (await machine.exited(container, 60)).exit_code == 0


async def test_input_waits_for_the_container(machine: Machine) -> None:
    script = "sleep 1; wc -c"
    container = await machine.run(await machine.sandbox(), "sh", "-c", script, stdin=True, stdin_once=True)
    async with await attach_session(machine, container, stdin=True) as session:
        await session.type(b"y" * 3_000_000)
        await session.end_input()
        await session.sees("3000000", 60)


async def test_input_that_nobody_reads_costs_no_output(machine: Machine) -> None:
    """The container ends with its last output on the way, and with more input than anybody took."""
    script = "read go; head -c 400000 /dev/zero; echo; echo the end"
    container = await machine.run(await machine.sandbox(), "sh", "-c", script, stdin=True, stdin_once=True)
    request = cri_pb2.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=True)
    url = (await machine.cri.Attach(request)).url
    async with Session(url, channels.streams(True, True, True, False), reading=False) as session:
        await session.type(b"go\n" + bytes(400_000))
        await machine.exited(container, 60)
        await session.end_input()
        output = await read_all(session.streams[Channel.STDOUT])
    assert output == bytes(400_000) + b"\nthe end\n"


async def test_attach_survives_a_restart_of_the_runtime(machine: Machine) -> None:
    script = "while read line; do echo got $line; done"
    container = await machine.run(await machine.sandbox(), "sh", "-c", script, stdin=True)
    async with await attach_session(machine, container, stdin=True) as session:
        await session.type("one\n")
        await session.sees("got one")
        await machine.stop()
    await machine.start()
    async with await attach_session(machine, container, stdin=True) as session:
        await session.type("two\n")
        await session.sees("got two")


async def forwarded_port(machine: Machine, sandbox: str, address: str, size: int = 0) -> int:
    container = await machine.run(sandbox, sys.executable, "-c", LISTENER, address, str(size), name="server")
    path = Path((await machine.status(container)).log_path)
    await until(lambda: path.read_text().endswith("\n"))
    return int(path.read_text().split()[3])


async def test_port_forward(machine: Machine) -> None:
    sandbox = await machine.sandbox()
    status = await machine.cri.PodSandboxStatus(cri_pb2.PodSandboxStatusRequest(pod_sandbox_id=sandbox))
    port = await forwarded_port(machine, sandbox, status.status.network.ip, 100_000)
    url = (await machine.cri.PortForward(cri_pb2.PortForwardRequest(pod_sandbox_id=sandbox))).url
    async with connected(url, pairs.PROTOCOL) as link:
        forwarder = Forwarder(link)

        async def talk(size: int) -> None:
            data, error = await forwarder.connect(port)
            await data.write(b"q" * size)
            await data.end()
            answer = await read_all(data)
            assert answer == f"{size}".encode() + b"q" * min(size, 5) + b"!" * 100_000
            assert await read_all(error) == b""

        await asyncio.gather(*(talk(size) for size in (0, 1, 1000, 2_000_000, *range(10, 26))))
        data, error = await forwarder.connect(1)
        message = (await read_all(error)).decode()
        assert message.startswith("error forwarding port 1: ")
        assert message.endswith("connection refused")
        assert await read_all(data) == b""
        await talk(7)  # the connection goes on


async def test_port_forward_to_a_pod_on_the_machines_network(machine: Machine) -> None:
    options = cri_pb2.NamespaceOption(network=cri_pb2.NODE)
    context = cri_pb2.LinuxSandboxSecurityContext(namespace_options=options)
    sandbox = await machine.sandbox(linux=cri_pb2.LinuxPodSandboxConfig(security_context=context))
    port = await forwarded_port(machine, sandbox, "127.0.0.1")
    url = (await machine.cri.PortForward(cri_pb2.PortForwardRequest(pod_sandbox_id=sandbox))).url
    async with connected(url, pairs.PROTOCOL) as link:
        data, _ = await Forwarder(link).connect(port)
        await data.write(b"hello")
        await data.end()
        assert await read_all(data) == b"5hello"


async def test_no_file_descriptors_stay_open(machine: Machine) -> None:
    container = await machine.run(await machine.sandbox(), "sleep", "100", stdin=True)

    async def round_trip() -> None:
        async with await exec_session(machine, container, "true", stdin=True) as session:
            await session.code()
        async with await exec_session(machine, container, "true", stdin=True, tty=True) as session:
            await session.code()
        async with await attach_session(machine, container, stdin=True) as session:
            await session.end_input()
            await session.code()

    await round_trip()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        await round_trip()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_command_that_does_not_die_at_once_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.runtime.processes.kill_session", lambda leader: None)  # as in a call that hangs
    running: set[subprocess.Popen[bytes]] = set()
    command = Command(Entry(["sleep", "5"], {"PATH": os.environ["PATH"]}, None, running), {}, terminal=False)
    end = asyncio.create_task(command.end())
    await asyncio.sleep(0)
    try:
        assert not end.done()
        assert running
    finally:
        command.child.kill()
        await end
    assert not running
