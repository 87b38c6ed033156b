"""The runtime's state and what is done to it: sandboxes and containers, from creation to removal.

Guarantees:
- What a method promised is on disk before it returns; a runtime started again on the same directory knows it.
- Those of programs.py.
"""

import asyncio
import os
import pwd
import secrets
import subprocess
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from signal import SIGUSR1, SIGUSR2
from typing import Any

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.runtime import cdi, processes, stats
from raykube.runtime.cgroups import Cgroups
from raykube.runtime.config import Config
from raykube.runtime.core import answers, launch
from raykube.runtime.core.addresses import AddressRing, NoFreeAddress
from raykube.runtime.core.cdi import Unresolvable, inject
from raykube.runtime.core.records import Container, Sandbox, Started
from raykube.runtime.events import Events
from raykube.runtime.live import Live
from raykube.runtime.programs import START_WAIT_S, Programs
from raykube.runtime.store import Store


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
        self._programs = Programs(self._store, self._cgroups, self._machine, config.container_path, self._on_end)
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
        await asyncio.gather(*(self._programs.recover(live) for live in lives))
        self._cgroups.sweep(self._not_ended())

    def _not_ended(self) -> set[str]:
        return {live.record.id for live in self._containers.values() if live.record.ended is None}

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
        was_ready, sandbox.ready = sandbox.ready, False  # first: nothing may start in it any more
        if was_ready:
            self._store.put_sandbox(sandbox)
        await asyncio.gather(*(self._stop(live, 0) for live in self.containers_of(sandbox_id)))
        if was_ready:
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
            if config.CDI_devices:
                inject(config, cdi.read(self._config.cdi_spec_dirs))
            launch.check(config)
        except launch.Refused as refusal:
            raise RpcError(Code.INVALID_ARGUMENT, str(refusal)) from None
        except Unresolvable as problem:
            raise RpcError(Code.UNKNOWN, f"CDI device injection failed: {problem}") from None
        directory = log_directory or sandbox.config.log_directory
        log_path = str(Path(directory) / config.log_path) if directory and config.log_path else ""
        record = Container(secrets.token_hex(32), sandbox_id, config, time.time_ns(), log_path)
        self._store.put_container(record)
        self._containers[record.id] = Live(record)
        self._publish(record.id, sandbox, cri_pb2.CONTAINER_CREATED_EVENT)
        return record

    async def start_container(self, container_id: str) -> None:
        # A cancelled caller must not leave us ignorant of a program that runs.
        await asyncio.shield(self._spawn(self._start(self.container(container_id))))

    async def _start(self, live: Live) -> None:
        """Who stops or removes the container meanwhile waits for the end of this."""
        record = live.record
        async with live.starting:
            self.container(record.id)  # is still there
            if record.state != cri_pb2.CONTAINER_CREATED:
                state = cri_pb2.ContainerState.Name(record.state)
                raise RpcError(Code.FAILED_PRECONDITION, f'container "{record.id}" is in {state} state')
            sandbox = self.sandbox(record.sandbox_id)
            if not sandbox.ready:
                raise RpcError(Code.FAILED_PRECONDITION, f'sandbox "{sandbox.id}" is not running')
            await self._programs.start(live, sandbox)
            self._publish(record.id, sandbox, cri_pb2.CONTAINER_STARTED_EVENT)
            self._programs.follow(live)

    def _on_end(self, live: Live) -> None:
        sandbox = self._sandboxes.get(live.record.sandbox_id)
        if sandbox is not None:
            self._publish(live.record.id, sandbox, cri_pb2.CONTAINER_STOPPED_EVENT)

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        """Asks the program to end, and kills it and all that it started when it has not after `grace_s` seconds."""
        live = self._containers.get(container_id)
        if live is not None:
            await self._stop(live, grace_s)

    async def _stop(self, live: Live, grace_s: float) -> None:
        """What is about to run can be stopped once it does."""
        try:
            async with asyncio.timeout(START_WAIT_S), live.starting:
                pass
        except TimeoutError:
            # It hangs, on a dead disk perhaps: then it has waited long enough.
            processes.kill_marked(launch.CONTAINER_VARIABLE, live.record.id, 0)
            async with live.starting:
                pass
        await self._programs.stop(live, grace_s)

    async def remove_container(self, container_id: str) -> None:
        live = self._containers.get(container_id)
        if live is None:
            return
        await self._stop(live, 0)
        async with live.starting:
            await self._programs.stop(live, 0)
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
        context = live.record.config.linux.security_context
        arguments = [
            *processes.INTERPRETER,
            str(processes.SCRIPTS / "enter.py"),
            str(started.pid),
            "-" if uid is None else str(uid),
            "-" if gid is None else str(gid),
            ",".join(map(str, context.supplemental_groups)) or "-",
            launch.working_directory(live.record),
            ("t" if terminal else "") + ("n" if context.no_new_privs else "") or "-",
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
