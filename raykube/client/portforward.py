"""A port of this computer that leads to a port of a pod."""

import asyncio
import logging
from contextlib import suppress

from raykube.client.remotecommand import RemoteCommands
from raykube.streaming.core import pairs
from raykube.streaming.link import Link, Stream

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024


class PortForward:
    """Listens; each connection is a pair of streams on one to an apiserver, which is made anew when it ended."""

    def __init__(self, commands: RemoteCommands, namespace: str, pod: str, port: int) -> None:
        self._commands = commands
        self._namespace = namespace
        self._pod = pod
        self._port = port
        self._server: asyncio.Server | None = None
        self._link: Link | None = None
        self._reading: asyncio.Task[None] | None = None
        self._dialling = asyncio.Lock()
        self._requests = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, address: str, port: int) -> int:
        """Returns the port. Raises ApiError when the pod cannot be reached, OSError when the port is taken."""
        await self._linked()
        self._server = await asyncio.start_server(self._accept, address, port)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self._link is not None and self._reading is not None:
            self._link.close()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._link = None

    async def _linked(self) -> Link:
        async with self._dialling:
            if self._link is None or self._link.closed.is_set():
                self._link, self._reading = await self._commands.port_forward(self._namespace, self._pod)
            return self._link

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            link = await self._linked()
            self._requests += 1
            number = self._requests
            error = await link.open(pairs.request_headers("error", self._port, number))
            data = await link.open(pairs.request_headers("data", self._port, number))
            await error.end()
            try:
                await _copy(reader, writer, data)
                message = await error.read()
                if message:
                    log.warning("%s", message.decode(errors="replace"))
            finally:
                link.forget(data)
                link.forget(error)
        except Exception as problem:
            log.warning("port-forward to %s:%d: %s", self._pod, self._port, problem)
        finally:
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: Stream) -> None:
    """Until the pod has closed its side."""

    async def up() -> None:
        with suppress(OSError):
            while part := await reader.read(READ_BYTES):
                await data.write(part)
            await data.end()

    upwards = asyncio.ensure_future(up())
    try:
        while part := await data.read():
            writer.write(part)
            await writer.drain()
    finally:
        upwards.cancel()
        await asyncio.gather(upwards, return_exceptions=True)
