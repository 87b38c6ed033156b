"""The programs of containers, each below a shim of its own: started, followed to their end, stopped.

Guarantees:
- A container's program is started at most once, whatever crashes: the shim claims its directory.
- No other process is ever signalled: pids are used together with start times.
- A container that is seen exited has no process left.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from signal import SIGKILL, SIGTERM, Signals

from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.runtime import processes
from raykube.runtime.cgroups import Cgroups
from raykube.runtime.core import launch
from raykube.runtime.core.records import Container, Ended, Sandbox, Started
from raykube.runtime.live import Live
from raykube.runtime.store import Store

LOST_CODE = 137
START_ERROR_CODE = 128
START_WAIT_S = 10.0
KILL_WAIT_S = 10.0


class Programs:
    """`path` is where programs are looked for; `on_end` is called when a container's program has ended."""

    def __init__(
        self, store: Store, cgroups: Cgroups, machine: launch.Machine, path: str, on_end: Callable[[Live], None]
    ) -> None:
        self._store = store
        self._cgroups = cgroups
        self._machine = machine
        self._path = path
        self._on_end = on_end
        self._boot = processes.boot_id()

    async def recover(self, live: Live) -> None:
        """Finds again what an earlier runtime started, or notices how it ended."""
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
            self.follow(live)

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

    async def start(self, live: Live, sandbox: Sandbox) -> None:
        """Starts a container's program; `follow` comes next. Raises RpcError."""
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
                {"PATH": self._path} | self._machine.markers(record.id),
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

    def follow(self, live: Live) -> None:
        """Notices the end of a container that was started, which may have come already."""
        started = live.record.started
        assert started is not None
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
        self._on_end(live)

    async def stop(self, live: Live, grace_s: float) -> None:
        """Asks the program to end, and kills it and all that it started when it has not after `grace_s` seconds."""
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
            async with asyncio.timeout(KILL_WAIT_S):
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
