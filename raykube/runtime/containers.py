"""The runtime's state and what is done to it: sandboxes and containers, from creation to removal.

Guarantees:
- What a method promised is on disk before it returns; a runtime started again on the same directory knows it.
- A container's program is started at most once, whatever crashes: the shim claims its directory.
- No other process is ever signalled: pids are used together with start times.
- A container that is seen exited has no process left.
"""

import asyncio
import logging
import os
import pwd
import secrets
import subprocess
import time
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL, SIGTERM, SIGUSR1, SIGUSR2, Signals
from typing import Any

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.runtime import processes, stats
from raykube.runtime.cgroups import Cgroups
from raykube.runtime.config import Config
from raykube.runtime.core import answers, launch
from raykube.runtime.core.addresses import AddressRing, NoFreeAddress
from raykube.runtime.core.records import Container, Ended, Sandbox, Started
from raykube.runtime.events import Events
from raykube.runtime.store import Store

log = logging.getLogger(__name__)

LOST_CODE = 137
START_ERROR_CODE = 128
START_WAIT_S = 10.0


@dataclass(slots=True)
class Live:
    """A container with what only this process of the runtime knows."""

    record: Container
    shim: processes.Handle | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    commands: "set[subprocess.Popen[bytes]]" = field(default_factory=set)
    entered: bool = False  # by commands, which may have left something running that is not below the shim


@dataclass(frozen=True, slots=True)
class Entry:
    """A command that enters a container; who runs it keeps its process in `running`."""

    arguments: list[str]
    environment: dict[str, str]
    uid: int | None
    running: "set[subprocess.Popen[bytes]]"


@dataclass(frozen=True, slots=True)
class Attachable:
    """A running container: its shim's directory, its configuration, and its end."""

    directory: Path
    config: cri_pb2.ContainerConfig
    exited: asyncio.Event


def _homes() -> dict[int, str]:
    return {entry.pw_uid: entry.pw_dir for entry in pwd.getpwall()}


class Runtime:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._store = Store(config.root_dir.absolute())
        self._cgroups = Cgroups.find(config.cluster, config.node_name) if config.cgroups else Cgroups({})
        self._machine = launch.Machine(config.node_name, config.cluster, config.container_path, os.getuid(), _homes())
        self._boot = processes.boot_id()
        self._sandboxes: dict[str, Sandbox] = {}
        self._containers: dict[str, Live] = {}
        self._addresses = AddressRing.of(config.pod_cidr, self._store.last_address(), set())
        self._tasks: set[asyncio.Task[None]] = set()
        self.events = Events()

    @property
    def limits(self) -> set[str]:
        return self._cgroups.available

    # -- life of the runtime itself

    async def recover(self) -> None:
        """Finds again what an earlier runtime left in the directory."""
        sandboxes, containers = self._store.load()
        for sandbox in sandboxes:
            self._sandboxes[sandbox.id] = sandbox
            if sandbox.address:
                self._addresses.used.add(sandbox.address)
        lives = [Live(record) for record in containers]
        for live in lives:
            self._containers[live.record.id] = live
        await asyncio.gather(*(self._recover_container(live) for live in lives))
        self._cgroups.sweep(self._not_ended())

    def _not_ended(self) -> set[str]:
        return {live.record.id for live in self._containers.values() if live.record.ended is None}

    async def _recover_container(self, live: Live) -> None:
        record = live.record
        if record.ended is not None:
            live.exited.set()
            return
        if record.started is None:
            claim = self._store.claim(record.id)
            if claim is None:
                return  # created, never started
            # The runtime died while a shim started; that one goes on by itself.
            await self._await_start(live, claim["shim_pid"], claim["shim_start"], claim["boot"])
        if record.started is not None and record.ended is None:
            self._follow(live, record.started)

    async def _await_start(self, live: Live, shim_pid: int, shim_start: int, boot: str) -> None:
        record = live.record
        deadline = time.monotonic() + START_WAIT_S
        while True:
            alive = boot == self._boot and processes.start_time(shim_pid) == shim_start
            record.started = self._store.started(record.id)
            record.ended = self._store.ended(record.id)
            if record.started is not None or record.ended is not None:
                break
            if not alive or time.monotonic() > deadline:
                self._lost(live)
                return
            await asyncio.sleep(0.02)
        if record.ended is not None:
            live.exited.set()

    def close(self) -> None:
        """Lets go of everything; containers run on."""
        for task in self._tasks:
            task.cancel()
        self.events.close()
        for live in self._containers.values():
            if live.shim is not None:
                live.shim.close()
            for command in live.commands:
                processes.kill_session(command.pid)
        self._cgroups.close(self._not_ended())

    # -- sandboxes

    def sandbox(self, sandbox_id: str) -> Sandbox:
        found = self._sandboxes.get(sandbox_id)
        if found is None:
            raise RpcError(Code.NOT_FOUND, f'an error occurred when try to find sandbox "{sandbox_id}": not found')
        return found

    def sandboxes(self) -> Iterable[Sandbox]:
        return self._sandboxes.values()

    def containers_of(self, sandbox_id: str) -> list[Live]:
        return [live for live in self._containers.values() if live.record.sandbox_id == sandbox_id]

    def run_sandbox(self, config: cri_pb2.PodSandboxConfig) -> Sandbox:
        sandbox = Sandbox(secrets.token_hex(32), config, time.time_ns(), "")
        if not sandbox.on_host_network:
            try:
                sandbox.address = self._addresses.allocate()
            except NoFreeAddress as error:
                raise RpcError(Code.RESOURCE_EXHAUSTED, str(error)) from None
            self._store.put_last_address(self._addresses.last)
        if config.log_directory:
            os.makedirs(config.log_directory, mode=0o755, exist_ok=True)
        resolver = launch.resolver(config.dns_config)
        if resolver:
            self._store.put_resolver(sandbox.id, resolver)
        self._store.put_sandbox(sandbox)
        self._sandboxes[sandbox.id] = sandbox
        self._publish(sandbox.id, sandbox, cri_pb2.CONTAINER_CREATED_EVENT)
        self._publish(sandbox.id, sandbox, cri_pb2.CONTAINER_STARTED_EVENT)
        return sandbox

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Kills what runs in it and gives its address back; a sandbox that is gone counts as stopped."""
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        await asyncio.gather(*(self._stop(live, 0) for live in self.containers_of(sandbox_id)))
        if sandbox.ready:
            sandbox.ready = False
            self._store.put_sandbox(sandbox)
            self._publish(sandbox.id, sandbox, cri_pb2.CONTAINER_STOPPED_EVENT)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        sandbox = self._sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        await self.stop_sandbox(sandbox_id)
        for live in self.containers_of(sandbox_id):
            await self.remove_container(live.record.id)
        if self._sandboxes.pop(sandbox_id, None) is None:
            return  # another call was faster
        self._store.remove_sandbox(sandbox_id)
        self._addresses.release(sandbox.address)
        self._publish(sandbox_id, sandbox, cri_pb2.CONTAINER_DELETED_EVENT)

    def set_pod_cidr(self, cidr: str) -> None:
        """New pods get addresses of `cidr`; those that run keep theirs."""
        try:
            self._addresses = AddressRing.of(cidr, self._addresses.last, self._addresses.used)
        except ValueError as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None

    # -- containers

    def container(self, container_id: str) -> Live:
        found = self._containers.get(container_id)
        if found is None:
            message = f'an error occurred when try to find container "{container_id}": not found'
            raise RpcError(Code.NOT_FOUND, message)
        return found

    def containers(self) -> Iterable[Container]:
        return [live.record for live in self._containers.values()]

    def create_container(self, sandbox_id: str, config: cri_pb2.ContainerConfig, log_directory: str) -> Container:
        sandbox = self.sandbox(sandbox_id)
        if not sandbox.ready:
            raise RpcError(Code.FAILED_PRECONDITION, f'sandbox "{sandbox_id}" is not running')
        try:
            launch.check(config)
        except launch.Refused as refusal:
            raise RpcError(Code.INVALID_ARGUMENT, str(refusal)) from None
        directory = log_directory or sandbox.config.log_directory
        log_path = str(Path(directory) / config.log_path) if directory and config.log_path else ""
        record = Container(secrets.token_hex(32), sandbox_id, config, time.time_ns(), log_path)
        self._store.put_container(record)
        self._containers[record.id] = Live(record)
        self._publish(record.id, sandbox, cri_pb2.CONTAINER_CREATED_EVENT)
        return record

    async def start_container(self, container_id: str) -> None:
        live = self.container(container_id)
        record = live.record
        async with live.starting:
            if record.state != cri_pb2.CONTAINER_CREATED:
                state = cri_pb2.ContainerState.Name(record.state)
                raise RpcError(Code.FAILED_PRECONDITION, f'container "{container_id}" is in {state} state')
            sandbox = self.sandbox(record.sandbox_id)
            if not sandbox.ready:
                raise RpcError(Code.FAILED_PRECONDITION, f'sandbox "{sandbox.id}" is not running')
            # A cancelled caller must not leave us ignorant of a program that runs.
            await asyncio.shield(self._spawn(self._start(live, sandbox)))

    async def _start(self, live: Live, sandbox: Sandbox) -> None:
        record = live.record
        directory = self._store.directory(record.id)
        if record.log_path:
            os.makedirs(os.path.dirname(record.log_path), exist_ok=True)
        for mount in record.config.mounts:
            if mount.host_path and not os.path.lexists(mount.host_path):
                try:
                    os.makedirs(mount.host_path)  # as other runtimes do for a hostPath without a type
                except OSError as error:
                    raise RpcError(Code.INTERNAL, f'failed to mkdir "{mount.host_path}": {error.strerror}') from None
        try:
            groups = self._cgroups.create(record.id, record.config.linux.resources)
        except OSError as error:
            raise RpcError(Code.INTERNAL, f"cannot limit the container's resources: {error}") from None
        resolver = self._store.resolver_file(sandbox.id)
        spec = launch.spec(
            record,
            sandbox,
            self._machine,
            str(directory / "scratch"),
            groups,
            str(resolver) if resolver.exists() else "",
        )
        self._store.put_spec(record.id, spec)
        try:
            await processes.start_shim(
                directory,
                record.log_path,
                launch.mode(record.config),
                self._cgroups.oom_file(record.id),
                [os.path.dirname(file) for file in groups],
                {"PATH": self._config.container_path} | self._machine.markers(record.id),
            )
        except processes.StartFailed as failure:
            record.ended = self._store.ended(record.id)
            if record.ended is None:
                self._end(live, Ended(START_ERROR_CODE, 0, time.time_ns(), "StartError", str(failure)))
            else:
                self._ended(live)
            raise RpcError(Code.UNKNOWN, f"failed to start container: {failure}") from None
        record.started = self._store.started(record.id)
        assert record.started is not None, "the shim reports after it wrote started.json"
        self._publish(record.id, sandbox, cri_pb2.CONTAINER_STARTED_EVENT)
        self._follow(live, record.started)

    def _follow(self, live: Live, started: Started) -> None:
        """Notices the end of the container, which may have come already."""
        handle = processes.Handle.open(started.shim_pid, started.shim_start) if started.boot == self._boot else None
        if handle is None:
            self._shim_gone(live)
            return
        live.shim = handle
        handle.on_exit(lambda: self._shim_gone(live))

    def _shim_gone(self, live: Live) -> None:
        live.shim = None
        live.record.ended = self._store.ended(live.record.id)
        if live.record.ended is None:
            self._lost(live)
        else:
            self._ended(live)

    def _lost(self, live: Live) -> None:
        """The shim was killed, or the machine restarted: nobody saw how the container ended."""
        started = live.record.started
        session = 0
        if started is not None and started.boot == self._boot:
            session = started.pid if processes.start_time(started.pid) in (started.start, None) else 0
        processes.kill_marked(launch.CONTAINER_VARIABLE, live.record.id, session)
        message = "the process that watched the container is gone; what it left running was killed"
        self._end(live, Ended(LOST_CODE, int(SIGKILL), time.time_ns(), "ContainerStatusUnknown", message))

    def _end(self, live: Live, ended: Ended) -> None:
        self._store.put_ended(live.record.id, ended)
        live.record.ended = ended
        self._ended(live)

    def _ended(self, live: Live) -> None:
        for command in live.commands:
            processes.kill_session(command.pid)
        if live.entered and self._cgroups.processes(live.record.id) != []:
            processes.kill_marked(launch.CONTAINER_VARIABLE, live.record.id, 0)
        live.exited.set()
        sandbox = self._sandboxes.get(live.record.sandbox_id)
        if sandbox is not None:
            self._publish(live.record.id, sandbox, cri_pb2.CONTAINER_STOPPED_EVENT)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        """Asks the program to end, and kills it and all that it started when it has not after `grace_s` seconds."""
        live = self._containers.get(container_id)
        if live is not None:
            await self._stop(live, grace_s)

    async def _stop(self, live: Live, grace_s: float) -> None:
        started = live.record.started
        if started is None or live.record.ended is not None:
            return
        if grace_s > 0:
            self._signal_program(started, self._stop_signal(live.record))
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await live.exited.wait()
                return
        if live.shim is not None:
            live.shim.send(SIGTERM)  # to a shim: kill all of it now
        # A shim that was stopped or is stuck on a dead disk would let us wait for ever.
        try:
            async with asyncio.timeout(10.0):
                await live.exited.wait()
        except TimeoutError:
            if live.shim is not None:
                live.shim.send(SIGKILL)
            await live.exited.wait()

    def _signal_program(self, started: Started, number: int) -> None:
        """To the whole process group: a shell that runs the program does not pass signals on."""
        if processes.start_time(started.pid) == started.start:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(started.pid, number)

    @staticmethod
    def _stop_signal(record: Container) -> int:
        if record.config.stop_signal == cri_pb2.RUNTIME_DEFAULT:
            return SIGTERM
        name = cri_pb2.Signal.Name(record.config.stop_signal)
        name = name.replace("PLUS", "+").replace("MINUS", "-")
        if "+" in name:
            return Signals.SIGRTMIN + int(name.partition("+")[2])
        if name.startswith("SIGRTMAX-"):
            return Signals.SIGRTMAX - int(name.partition("-")[2])
        return Signals[name]

    async def remove_container(self, container_id: str) -> None:
        live = self._containers.get(container_id)
        if live is None:
            return
        await self._stop(live, 0)
        if self._containers.pop(container_id, None) is None:
            return
        self._cgroups.remove(container_id)
        self._store.remove_container(container_id)
        sandbox = self._sandboxes.get(live.record.sandbox_id)
        if sandbox is not None:
            self._publish(container_id, sandbox, cri_pb2.CONTAINER_DELETED_EVENT)

    def _running(self, container_id: str) -> tuple[Live, Started]:
        live = self.container(container_id)
        if live.record.started is None or live.record.ended is not None:
            raise RpcError(Code.FAILED_PRECONDITION, f'container "{container_id}" is not running')
        return live, live.record.started

    def reopen_log(self, container_id: str) -> None:
        live, _ = self._running(container_id)
        if live.shim is not None:
            live.shim.send(SIGUSR1)

    def update_resources(self, container_id: str, resources: cri_pb2.LinuxContainerResources) -> None:
        live = self.container(container_id)
        live.record.config.linux.resources.MergeFrom(resources)
        self._store.put_container(live.record)
        if live.record.started is not None and live.record.ended is None:
            try:
                self._cgroups.update(container_id, resources)
            except OSError as error:
                raise RpcError(Code.INTERNAL, f"cannot change the container's limits: {error}") from None

    async def execute(self, container_id: str, command: list[str], timeout_s: float | None) -> processes.CommandResult:
        """Runs a command where the container's program runs: its file tree, user, environment, directory."""
        entry = self.entry(container_id, command, terminal=False)
        return await processes.run_command(entry.arguments, entry.environment, "/", timeout_s, entry.running)

    def entry(self, container_id: str, command: list[str], *, terminal: bool) -> Entry:
        """How to run a command in a container. Raises RpcError."""
        live, started = self._running(container_id)
        sandbox = self.sandbox(live.record.sandbox_id)
        if not command:
            raise RpcError(Code.INVALID_ARGUMENT, "no command")
        live.entered = True
        environment = launch.environment(live.record, sandbox, self._machine)
        if terminal:
            environment.setdefault("TERM", "xterm")
        uid, gid = launch.user_of(live.record, sandbox), launch.group_of(live.record, sandbox)
        arguments = [
            *processes.INTERPRETER,
            str(processes.SCRIPTS / "enter.py"),
            str(started.pid),
            "-" if uid is None else str(uid),
            str(gid or 0),
            launch.working_directory(live.record),
            "t" if terminal else "-",
            ":".join(self._cgroups.files(container_id)),
            *command,
        ]
        return Entry(arguments, environment, uid, live.commands)

    def attachable(self, container_id: str) -> Attachable:
        """Makes a container's shim listen for those who attach. Raises RpcError."""
        live, _ = self._running(container_id)
        if live.shim is None:
            raise RpcError(Code.FAILED_PRECONDITION, f'container "{container_id}" is not running')
        live.shim.send(SIGUSR2)
        return Attachable(self._store.directory(container_id), live.record.config, live.exited)

    def usage(self, record: Container) -> stats.Usage:
        pids = self._cgroups.processes(record.id)
        if pids is None:
            pids = processes.descendants(record.started.shim_pid) if record.started else []
        return stats.usage_of(pids)

    # -- events

    def _publish(self, subject: str, sandbox: Sandbox, kind: cri_pb2.ContainerEventType) -> None:
        if not self.events.wanted:
            return
        self.events.publish(
            cri_pb2.ContainerEventResponse(
                container_id=subject,
                container_event_type=kind,
                created_at=time.time_ns(),
                pod_sandbox_status=answers.sandbox_status(sandbox),
                containers_statuses=[answers.container_status(live.record) for live in self.containers_of(sandbox.id)],
            )
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
