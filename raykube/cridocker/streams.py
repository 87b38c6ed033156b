"""Exec, attach and port-forward: docker's plain connections, joined with a SPDY connection's streams."""

import asyncio
import ctypes
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress

from raykube.cridocker.containers import Containers
from raykube.cridocker.core.logs import frames
from raykube.cridocker.engine import PIECE_BYTES, Engine, EngineError, Hijacked
from raykube.cridocker.sandboxes import Sandboxes
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.streaming import server, sessions
from raykube.streaming.core import channels, outcome
from raykube.streaming.core.channels import Channel
from raykube.streaming.core.resize import Resizes
from raykube.streaming.core.tickets import TooMany
from raykube.streaming.link import Link, Stream

Request = cri_pb2.ExecRequest | cri_pb2.AttachRequest | cri_pb2.PortForwardRequest

CONNECT_S = 10.0
CLONE_NEWNET = 0x40000000
LOOPBACK = "127.0.0.1"

_libc = ctypes.CDLL(None, use_errno=True)


class StreamingServer(server.StreamingServer[Request]):
    def __init__(self, engine: Engine, containers: Containers, sandboxes: Sandboxes) -> None:
        super().__init__(self._run)
        self._engine = engine
        self._containers = containers
        self._sandboxes = sandboxes

    def url(self, kind: str, request: Request) -> str:
        """Raises RpcError."""
        try:
            return super().url(kind, request)
        except TooMany as error:
            raise RpcError(Code.RESOURCE_EXHAUSTED, str(error)) from None

    async def _run(self, request: Request, link: Link) -> None:
        match request:
            case cri_pb2.ExecRequest():
                await self._exec(request, link)
            case cri_pb2.AttachRequest():
                await self._attach(request, link)
            case cri_pb2.PortForwardRequest():
                await self._port_forward(request, link)

    async def _exec(self, request: cri_pb2.ExecRequest, link: Link) -> None:
        """When the client leaves first, the command is killed."""
        wanted = channels.streams(request.stdin, request.stdout, request.stderr, request.tty)
        streams = await sessions.remote_command(link, wanted)
        try:
            exec_id = await self._containers.new_exec(
                request.container_id,
                list(request.cmd),
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
                tty=request.tty,
            )
            connection = await self._engine.hijack(f"/exec/{exec_id}/start", {"Detach": False, "Tty": request.tty})
        except RpcError as error:
            text = f"error executing command in container: {error.message}"
            await streams[Channel.ERROR].write(outcome.failed(text))
            return
        joint = Joint(connection, streams, link, self._engine, f"/exec/{exec_id}/resize", framed=not request.tty)
        try:
            await joint.run(ends_with_input=False)
            await streams[Channel.ERROR].write(outcome.exited(await self._containers.exit_code(exec_id)))
            for stream in streams.values():
                await stream.end()
        finally:
            connection.close()
            await asyncio.shield(self._containers.kill_exec(exec_id))

    async def _attach(self, request: cri_pb2.AttachRequest, link: Link) -> None:
        """When the client leaves, the container goes on."""
        wanted = channels.streams(request.stdin, request.stdout, request.stderr, request.tty)
        streams = await sessions.remote_command(link, wanted)
        try:
            found = await self._containers.running(request.container_id)
            config, place = found["Config"], f"/containers/{found['Id']}"
            connection = await self._engine.hijack(
                f"{place}/attach",
                stream=True,
                stdin=request.stdin and config["OpenStdin"],
                stdout=request.stdout,
                stderr=request.stderr and not config["Tty"],
            )
        except RpcError as error:
            await streams[Channel.ERROR].write(outcome.failed(f"error attaching to container: {error.message}"))
            return
        joint = Joint(connection, streams, link, self._engine, f"{place}/resize", framed=not config["Tty"])
        try:
            await joint.run(ends_with_input=config["OpenStdin"] and not config["StdinOnce"])
            await streams[Channel.ERROR].write(outcome.success())
            for stream in streams.values():
                await stream.end()
        finally:
            connection.close()

    async def _port_forward(self, request: cri_pb2.PortForwardRequest, link: Link) -> None:
        async def forward(port: int, data: Stream) -> None:
            try:
                found = await self._sandboxes.inspect(request.pod_sandbox_id)
            except RpcError as error:
                raise ConnectionRefusedError(error.message) from None
            if not found["State"]["Running"]:
                raise ConnectionRefusedError("the sandbox is not running")
            await sessions.copy(*await _connect(found["State"]["Pid"], port), data)

        await sessions.port_forward(link, forward)


class Joint:
    """A connection of docker's and the streams of a client."""

    def __init__(
        self,
        connection: Hijacked,
        streams: Mapping[Channel, Stream],
        link: Link,
        engine: Engine,
        resize: str,
        *,
        framed: bool,
    ) -> None:
        self._connection = connection
        self._streams = streams
        self._link = link
        self._engine = engine
        self._resize = resize
        self._framed = framed

    async def run(self, *, ends_with_input: bool) -> None:
        """Returns when docker ended it, or the input where that does. Raises ConnectionError when the client left."""
        spawn = asyncio.ensure_future
        outputs = spawn(self._outputs())
        typed = spawn(self._input(ends_with_input))
        left = spawn(self._link.closed.wait())
        sizes = spawn(self._sizes())
        try:
            await asyncio.wait((outputs, typed, left), return_when=asyncio.FIRST_COMPLETED)
            if left.done() and not outputs.done():
                raise ConnectionResetError("the client left")
            if outputs.done():
                outputs.result()
        finally:
            tasks = (outputs, typed, left, sizes)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _outputs(self) -> None:
        buffer = bytearray()
        by_number = {int(channel): stream for channel, stream in self._streams.items()}
        while piece := await self._connection.reader.read(PIECE_BYTES):
            parts = [(1, piece)]
            if self._framed:
                buffer += piece
                parts = frames(buffer)
            for number, payload in parts:
                if number in by_number:
                    await by_number[number].write(payload)

    async def _input(self, ends: bool) -> None:
        """Returns when the client's input has ended and `ends` says that this is the end."""
        stream = self._streams.get(Channel.STDIN)
        if stream is not None:
            with suppress(OSError):  # nobody listens any more; what still comes is read and dropped
                while data := await stream.read():
                    await self._connection.write(data)
            while await stream.read():
                pass
            if ends:
                return
            self._connection.end_input()
        await asyncio.Event().wait()

    async def _sizes(self) -> None:
        stream = self._streams.get(Channel.RESIZE)
        sizes = Resizes()
        while stream is not None and (data := await stream.read()):
            for size in sizes.feed(data):
                with suppress(EngineError):  # it has ended
                    await self._engine.post(self._resize, h=size.height, w=size.width)


def _connected(pid: int, port: int, answer: "asyncio.Future[socket.socket]", loop: asyncio.AbstractEventLoop) -> None:
    """Connects to loopback in the network of the process `pid`; the thread that entered it ends with that."""

    def tell(result: socket.socket | OSError) -> None:
        if answer.done():
            if isinstance(result, socket.socket):
                result.close()
        elif isinstance(result, socket.socket):
            answer.set_result(result)
        else:
            answer.set_exception(result)

    result: socket.socket | OSError
    try:
        with open(f"/proc/{pid}/ns/net") as namespace:
            if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        result = socket.create_connection((LOOPBACK, port), CONNECT_S)
    except OSError as error:
        result = error
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(tell, result)


async def _connect(pid: int, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[socket.socket] = loop.create_future()
    threading.Thread(target=_connected, args=(pid, port, answer, loop), daemon=True).start()
    try:
        connection = await answer
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()
        raise ConnectionRefusedError(f"failed to connect to localhost:{port} inside the pod: {reason}") from None
    connection.setblocking(False)
    return await asyncio.open_connection(sock=connection)
