"""Exec: a command in a container, with its input, outputs or terminal at the other end of a SPDY connection."""

import asyncio
import fcntl
import os
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress

from raykube.pb import cri_pb2
from raykube.rpc import RpcError
from raykube.runtime import pipes, processes
from raykube.runtime.containers import Entry, Runtime
from raykube.streaming import sessions
from raykube.streaming.core import channels, outcome
from raykube.streaming.core.channels import Channel
from raykube.streaming.core.resize import Resizes
from raykube.streaming.link import Link, Stream

QUIET_S = 1.0  # after the command's end, how long its silent background processes keep the outputs open


class Command:
    """A command's process and our ends of its streams, by channel."""

    def __init__(self, entry: Entry, wanted: Mapping[Channel, Stream], *, terminal: bool) -> None:
        self._running = entry.running
        self.terminal = -1
        self.ends: dict[Channel, int] = {}
        theirs: dict[Channel, int] = {}
        if terminal:
            self.terminal, slave = os.openpty()
            if entry.uid is not None:
                with suppress(OSError):
                    os.fchown(slave, entry.uid, -1)
            theirs = dict.fromkeys((Channel.STDIN, Channel.STDOUT, Channel.STDERR), slave)
            self.ends = {Channel.STDIN: os.dup(self.terminal), Channel.STDOUT: self.terminal}
        else:
            for channel in (Channel.STDIN, Channel.STDOUT, Channel.STDERR):
                if channel in wanted:
                    reader, writer = os.pipe()
                    theirs[channel], self.ends[channel] = (
                        (reader, writer) if channel is Channel.STDIN else (writer, reader)
                    )
        try:
            self.child = subprocess.Popen(
                entry.arguments,
                stdin=theirs.get(Channel.STDIN, subprocess.DEVNULL),
                stdout=theirs.get(Channel.STDOUT, subprocess.DEVNULL),
                stderr=theirs.get(Channel.STDERR, subprocess.DEVNULL),
                start_new_session=True,
                cwd="/",
                env=entry.environment,
            )
        except BaseException:
            self.close_ends()
            raise
        finally:
            for handle in set(theirs.values()):
                os.close(handle)
        self._running.add(self.child)

    def close_end(self, channel: Channel) -> None:
        handle = self.ends.pop(channel, -1)
        if handle >= 0:
            os.close(handle)

    def close_ends(self) -> None:
        for channel in list(self.ends):
            self.close_end(channel)

    def resize(self, width: int, height: int) -> None:
        with suppress(OSError):
            fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    async def end(self) -> None:
        """Kills what is left of it, and reaps it."""
        try:
            if self.child.poll() is None:
                processes.kill_session(self.child.pid)
                await processes.wait_child(self.child)  # one in a system call that hangs dies only after it
        finally:
            self._running.discard(self.child)
            self.close_ends()


class Session:
    """One exec, from its streams to the status of its end."""

    def __init__(self, command: Command, streams: Mapping[Channel, Stream], link: Link) -> None:
        self._command = command
        self._streams = streams
        self._link = link
        self._moved = 0  # pieces of output passed on
        self._sending = 0

    async def run(self) -> None:
        """Returns when the command ended and its output was passed on. Raises OSError when the client left."""
        spawn = asyncio.ensure_future
        inputs = [spawn(self._input()), spawn(self._sizes())]
        outputs = [
            spawn(self._output(channel)) for channel in (Channel.STDOUT, Channel.STDERR) if channel in self._streams
        ]
        ended = spawn(processes.wait_child(self._command.child))
        left = spawn(self._link.closed.wait())
        try:
            await asyncio.wait((ended, left), return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                raise ConnectionResetError("the client left")
            await self._drain(outputs)
            code = ended.result()
            await self._streams[Channel.ERROR].write(outcome.exited(128 - code if code < 0 else code))
            for stream in self._streams.values():
                await stream.end()
        finally:
            tasks = (*inputs, *outputs, ended, left)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self, outputs: "Sequence[asyncio.Future[None]]") -> None:
        """Waits for the ends of the outputs, but not for a silent background process that holds one open."""
        while outputs:
            moved = self._moved
            _, waiting = await asyncio.wait(outputs, timeout=QUIET_S)
            if not waiting or (moved == self._moved and not self._sending):
                return

    async def _input(self) -> None:
        stream = self._streams.get(Channel.STDIN)
        if stream is None:
            return
        while data := await stream.read():
            try:
                await pipes.write(self._command.ends[Channel.STDIN], data)
            except (OSError, KeyError):
                break  # the command does not listen; what still comes is read and dropped
        if self._command.terminal < 0:
            self._command.close_end(Channel.STDIN)
        while await stream.read():
            pass

    async def _output(self, channel: Channel) -> None:
        while data := await pipes.read(self._command.ends[channel]):
            self._sending += 1
            try:
                await self._streams[channel].write(data)
            finally:
                self._sending -= 1
            self._moved += 1

    async def _sizes(self) -> None:
        stream = self._streams.get(Channel.RESIZE)
        sizes = Resizes()
        while stream is not None and (data := await stream.read()):
            for size in sizes.feed(data):
                self._command.resize(size.width, size.height)


async def serve(runtime: Runtime, request: cri_pb2.ExecRequest, link: Link) -> None:
    """Runs the command; when the client leaves first, the command is killed with its session."""
    wanted = channels.streams(request.stdin, request.stdout, request.stderr, request.tty)
    streams = await sessions.remote_command(link, wanted)
    try:
        entry = runtime.entry(request.container_id, list(request.cmd), terminal=request.tty)
        command = Command(entry, streams, terminal=request.tty)
    except (RpcError, OSError) as error:
        text = error.message if isinstance(error, RpcError) else str(error)
        await streams[Channel.ERROR].write(outcome.failed(f"error executing command in container: {text}"))
        return
    try:
        await Session(command, streams, link).run()
    finally:
        await command.end()
