"""Attach: a running container's own input and outputs, by way of its shim (process/attach.py has the packets)."""

import asyncio
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from raykube.pb import cri_pb2
from raykube.rpc import RpcError
from raykube.runtime.containers import Attachable, Runtime
from raykube.streaming import sessions
from raykube.streaming.core import channels, outcome
from raykube.streaming.core.channels import Channel
from raykube.streaming.core.resize import Resizes
from raykube.streaming.link import Link, Stream

PACKET_BYTES_MAX = 64 * 1024
INPUT, RESIZE, INPUT_END = b"\0", b"\4", b"\xff"
LISTEN_WAIT_S = 5.0
POLL_S = 0.01


async def connect(directory: Path) -> socket.socket:
    """The shim's socket, once it listens. Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.setblocking(False)
        async with asyncio.timeout(LISTEN_WAIT_S):
            while True:
                try:
                    client.connect(f"/proc/self/fd/{handle}/attach")
                    return client
                except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                    await asyncio.sleep(POLL_S)
    except BaseException:
        client.close()
        raise
    finally:
        os.close(handle)


class Session:
    """One attachment, from its streams to its end."""

    def __init__(self, shim: socket.socket, target: Attachable, streams: Mapping[Channel, Stream], link: Link) -> None:
        self._shim = shim
        self._target = target
        self._streams = streams
        self._link = link

    async def run(self) -> None:
        """Returns when the container ended, or its input did and it will take more from others."""
        spawn = asyncio.ensure_future
        ended = spawn(self._outputs())
        typed = spawn(self._input())
        left = spawn(self._link.closed.wait())
        sizes = spawn(self._sizes())
        try:
            await asyncio.wait((ended, typed, left), return_when=asyncio.FIRST_COMPLETED)
            if not left.done():
                await self._streams[Channel.ERROR].write(outcome.success())
                for stream in self._streams.values():
                    await stream.end()
        finally:
            tasks = (ended, typed, left, sizes)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _outputs(self) -> None:
        loop = asyncio.get_running_loop()
        by_number = {int(channel): stream for channel, stream in self._streams.items()}
        while True:
            try:
                packet = await loop.sock_recv(self._shim, PACKET_BYTES_MAX + 1)
            except ConnectionResetError:
                # The shim left with input unread; the kernel says so once, before what it had sent.
                continue
            if not packet:
                return
            stream = by_number.get(packet[0])
            if stream is not None:
                await stream.write(packet[1:])

    async def _input(self) -> None:
        """Returns when the client's input has ended and that ends the attachment."""
        stream = self._streams.get(Channel.STDIN)
        config = self._target.config
        once = config.stdin_once and not config.tty
        if stream is not None:
            try:
                while data := await stream.read():
                    for start in range(0, len(data), PACKET_BYTES_MAX):
                        await self._send(INPUT + data[start : start + PACKET_BYTES_MAX])
                if once:
                    await self._send(INPUT_END)
            except OSError:
                # The container has ended: its last output is still to come, and what is typed is read and dropped.
                while await stream.read():
                    pass
            else:
                if config.stdin and not once:
                    return
        await asyncio.Event().wait()

    async def _sizes(self) -> None:
        stream = self._streams.get(Channel.RESIZE)
        sizes = Resizes()
        while stream is not None and (data := await stream.read()):
            for size in sizes.feed(data):
                await self._send(RESIZE + f"{size.width} {size.height}".encode())

    async def _send(self, packet: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._shim, packet)


async def serve(runtime: Runtime, request: cri_pb2.AttachRequest, link: Link) -> None:
    """Attaches; when the client leaves, the container goes on."""
    wanted = channels.streams(request.stdin, request.stdout, request.stderr, request.tty)
    streams = await sessions.remote_command(link, wanted)
    try:
        target = runtime.attachable(request.container_id)
        shim = await connect(target.directory)
    except (RpcError, OSError) as error:
        text = error.message if isinstance(error, RpcError) else f"the container's shim does not listen: {error}"
        await streams[Channel.ERROR].write(outcome.failed(f"error attaching to container: {text}"))
        return
    with shim:
        await Session(shim, target, streams, link).run()
