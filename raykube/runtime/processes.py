"""Processes by pidfd: followed without polling and without being their parent; signalled without hitting another one.

Works on any event loop and in any thread: asyncio's own subprocesses need a watcher that an actor's thread lacks.
"""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 64 * 1024
OUTPUT_BYTES_MAX = 16 * 1024 * 1024  # of one ExecSync, as other runtimes bound it


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int) -> int | None:
    """Clock ticks between boot and the start of `pid`; None when there is no such process (or a zombie only)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


class Handle:
    """A pidfd."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def open(cls, pid: int, start: int) -> "Handle | None":
        """The process with this pid and start time; None when it is gone."""
        if pid <= 0:
            return None
        try:
            handle = cls(os.pidfd_open(pid))
        except ProcessLookupError:
            return None
        if start_time(pid) != start:
            handle.close()
            return None
        return handle

    def send(self, number: int) -> None:
        """Sends a signal; a process that has gone is no error."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def on_exit(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, when the process ends, and closes the handle."""
        self._loop = asyncio.get_running_loop()

        def ended() -> None:
            self.close()
            callback()

        self._loop.add_reader(self._fd, ended)

    def close(self) -> None:
        if self._fd >= 0:
            if self._loop is not None:
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


async def wait_child(child: "subprocess.Popen[bytes]") -> int:
    """Waits for a child process of ours and reaps it."""
    code = child.poll()
    if code is not None:
        return code
    ended = asyncio.Event()
    handle = Handle(os.pidfd_open(child.pid))
    handle.on_exit(ended.set)
    try:
        await ended.wait()
    finally:
        handle.close()
    return child.wait()


async def read_all(fd: int, bytes_max: int) -> bytes:
    """Reads a pipe until its end; what is beyond `bytes_max` is read and dropped."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    parts: list[bytes] = []
    size = 0
    os.set_blocking(fd, False)

    def readable() -> None:
        nonlocal size
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            parts.append(data[: max(bytes_max - size, 0)])
            size += len(data)
        elif not done.done():
            loop.remove_reader(fd)
            done.set_result(None)

    loop.add_reader(fd, readable)
    try:
        await done
    finally:
        loop.remove_reader(fd)
    return b"".join(parts)


class StartFailed(Exception):
    """The container's program could not be started."""


SCRIPTS = Path(__file__).parent / "process"
# The interpreter itself, not a virtual environment's link to it: the scripts use nothing but the standard library.
INTERPRETER = (os.path.realpath(sys.executable), "-I", "-S")


async def start_shim(
    directory: Path,
    log_path: str,
    mode: str,
    oom_file: str,
    control_groups: list[str],
    environment: dict[str, str],
) -> None:
    """Starts a container's shim; returns when the program runs. Raises StartFailed."""
    reader, writer = os.pipe()
    try:
        child = subprocess.Popen(  # noqa: ASYNC220 - returns after a vfork
            [
                *INTERPRETER,
                str(SCRIPTS / "start.py"),
                str(directory),
                str(writer),
                log_path,
                mode,
                oom_file,
                *control_groups,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(writer,),
            start_new_session=True,
            cwd="/",
            env=environment,
        )
    finally:
        os.close(writer)
    try:
        report, code = await asyncio.gather(read_all(reader, 8192), wait_child(child))
    finally:
        os.close(reader)
    if report == b"ok":
        return
    if report.startswith(b"error "):
        raise StartFailed(report[6:].decode(errors="replace"))
    raise StartFailed(f"the container's shim ended before it reported (exit code {code})")


@dataclass(frozen=True, slots=True)
class CommandResult:
    stdout: bytes
    stderr: bytes
    code: int
    timed_out: bool


async def run_command(
    arguments: list[str],
    environment: dict[str, str],
    directory: str,
    timeout_s: float | None,
    running: "set[subprocess.Popen[bytes]]",
) -> CommandResult:
    """Runs a command in a session of its own and collects its output; at the time-out its session is killed.

    The child is in `running` meanwhile, so that whoever owns the container can end it with the container.
    """
    child = subprocess.Popen(  # noqa: ASYNC220 - returns after a vfork
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=directory,
        env=environment,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    running.add(child)
    outputs = [
        asyncio.ensure_future(read_all(pipe.fileno(), OUTPUT_BYTES_MAX)) for pipe in (child.stdout, child.stderr)
    ]
    waiting = asyncio.ensure_future(wait_child(child))
    timed_out = False
    try:
        try:
            async with asyncio.timeout(timeout_s):
                code = await asyncio.shield(waiting)
        except TimeoutError:
            timed_out = True
            kill_session(child.pid)
            code = await waiting
        # A background process of the command may hold the pipes open for ever: the answer does not wait for it.
        await asyncio.wait(outputs, timeout=1.0)
    except BaseException:
        kill_session(child.pid)
        raise
    finally:
        running.discard(child)
        for output in outputs:
            output.cancel()
        await asyncio.gather(*outputs, return_exceptions=True)
        for pipe in (child.stdout, child.stderr):
            pipe.close()
        if child.poll() is None:
            child.wait()
    stdout, stderr = (b"" if output.cancelled() else output.result() for output in outputs)
    return CommandResult(stdout, stderr, 128 - code if code < 0 else code, timed_out)


def kill_session(leader: int) -> None:
    """Kills every process of the session that `leader` leads."""
    for pid in _pids():
        try:
            session = int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[3])
        except OSError:
            continue
        if session == leader:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def kill_marked(variable: str, value: str, session: int) -> None:
    """Kills what no shim watches: processes of the container's session (if not 0), and those that carry its mark.

    A full scan of the machine's processes: only for a shim that was killed, and for what commands left running.
    """
    mark = f"{variable}={value}".encode()
    for _ in range(10):  # a process may fork while we look: until a scan finds none
        found = False
        for pid in _pids():
            try:
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                marked = mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if (marked or (session > 0 and int(fields[3]) == session)) and fields[0] not in (b"Z", b"X"):
                found = True
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        if not found:
            return


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def descendants(root: int) -> list[int]:
    """The processes below `root`, without it."""
    found: list[int] = []
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            with suppress(OSError):
                children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
                pending += [int(child) for child in children]
                found += [int(child) for child in children]
    return found
