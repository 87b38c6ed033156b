"""Exec and attach: commands in containers, and containers' own input and output, through any apiserver.

async with await RemoteCommands(api, tls).exec("default", "web", ["sh", "-c", "wc -l"], stdin=True) as session:
    await session.write(b"one line\\n")
    await session.end_input()
    async for name, data in session: ...
    code = await session.code()
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from types import TracebackType
from urllib.parse import quote, urlencode

import orjson

from raykube.api.errors import ApiError
from raykube.client.api import ApiClient
from raykube.client.failures import error_of_body
from raykube.rpc import Tls
from raykube.rpc.tls import client_context
from raykube.streaming import wire
from raykube.streaming.core import channels, http1, outcome, pairs, resize
from raykube.streaming.core.channels import Channel
from raykube.streaming.link import Link, Stream

PIECES_MAX = 16  # of output that wait for the program, 64 KiB each; more wait where they come from


class Session:
    """A running exec or attach."""

    def __init__(self, link: Link, reading: "asyncio.Task[None]", streams: dict[Channel, Stream]) -> None:
        self._link = link
        self._reading = reading
        self._streams = streams
        self._pieces: asyncio.Queue[tuple[str, bytes] | None] = asyncio.Queue(PIECES_MAX)
        spawn = asyncio.get_running_loop().create_task
        outputs = [channel for channel in (Channel.STDOUT, Channel.STDERR) if channel in streams]
        self._copying = spawn(self._copy(outputs))
        self._status = spawn(self._read_status())

    async def __aenter__(self) -> "Session":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[tuple[str, bytes]]:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        """The next piece of output: ("stdout" or "stderr", bytes)."""
        piece = await self._pieces.get()
        if piece is None:
            self._pieces.put_nowait(None)
            raise StopAsyncIteration
        return piece

    async def _copy(self, outputs: Sequence[Channel]) -> None:
        async def one(channel: Channel) -> None:
            while data := await self._streams[channel].read():
                await self._pieces.put((channel.name.lower(), data))

        await asyncio.gather(*map(one, outputs))
        await self._pieces.put(None)

    async def _read_status(self) -> bytes:
        body = b""
        while data := await self._streams[Channel.ERROR].read():
            body += data
        return body

    async def write(self, data: bytes) -> None:
        """Gives input. Raises ConnectionError when nobody takes it any more."""
        await self._streams[Channel.STDIN].write(data)

    async def end_input(self) -> None:
        await self._streams[Channel.STDIN].end()

    async def resize(self, width: int, height: int) -> None:
        """Tells the terminal its size."""
        await self._streams[Channel.RESIZE].write(resize.encode(width, height))

    async def code(self) -> int:
        """The exit code, once there is one; the output must be read meanwhile. An attach that ends well has 0.

        Raises ApiError when the session broke, ConnectionError when the connection did.
        """
        body = await asyncio.shield(self._status)
        if not body:
            raise ConnectionResetError("the connection ended before the command")
        code = outcome.exit_code(orjson.loads(body))
        if code is None:
            raise error_of_body(body, 500)
        return code

    async def close(self) -> None:
        """Leaves; a command that still runs is ended. Idempotent."""
        self._link.close()
        tasks = (self._copying, self._status, self._reading)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RemoteCommands:
    """Opens streams to pods."""

    def __init__(self, api: ApiClient, tls: Tls | None) -> None:
        self._api = api
        self._tls = tls
        self._context: ssl.SSLContext | None = None

    async def exec(
        self,
        namespace: str,
        pod: str,
        command: Sequence[str],
        *,
        container: str = "",
        stdin: bool = False,
        tty: bool = False,
    ) -> Session:
        """Runs a command in a container. Raises ApiError when that is refused, OSError when nobody answers."""
        query = [("command", word) for word in command]
        return await self._session(namespace, pod, "exec", query, container, stdin, tty)

    async def attach(
        self, namespace: str, pod: str, *, container: str = "", stdin: bool = False, tty: bool = False
    ) -> Session:
        """Joins a container's own input and output. Raises as `exec` does."""
        return await self._session(namespace, pod, "attach", [], container, stdin, tty)

    async def port_forward(self, namespace: str, pod: str) -> "tuple[Link, asyncio.Task[None]]":
        """A link for pairs of streams (`pairs`), and the task that reads it. Raises as `exec` does."""
        return await self._link(namespace, pod, "portforward", [], pairs.PROTOCOL)

    async def _session(
        self, namespace: str, pod: str, kind: str, query: list[tuple[str, str]], container: str, stdin: bool, tty: bool
    ) -> Session:
        wanted = channels.streams(stdin, True, True, tty)
        flags = {"stdin": stdin, "stdout": True, "stderr": not tty, "tty": tty}
        query += [(name, "true") for name, there in flags.items() if there]
        if container:
            query.append(("container", container))
        link, reading = await self._link(namespace, pod, kind, query, channels.V4)
        try:
            streams = {channel: await link.open({"streamtype": channel.name.lower()}) for channel in wanted}
        except BaseException:
            link.close()
            reading.cancel()
            raise
        return Session(link, reading, streams)

    async def _link(
        self, namespace: str, pod: str, kind: str, query: list[tuple[str, str]], protocol: str
    ) -> "tuple[Link, asyncio.Task[None]]":
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/{kind}?{urlencode(query)}"
        if self._tls is not None and self._context is None:
            self._context = client_context(self._tls)
        scheme = "https" if self._context is not None else "http"
        problem: OSError = ConnectionRefusedError("no apiserver is known")
        for address in await self._api.https_addresses():
            try:
                answer = await wire.dial(
                    f"{scheme}://{address}{path}", "POST", http1.spdy_headers(protocol), self._context
                )
            except OSError as error:
                problem = error
                continue
            if answer.wire is None:
                raise _refused(answer)
            link = Link(answer.wire, server=False)
            return link, asyncio.get_running_loop().create_task(link.run())
        raise problem


def _refused(answer: wire.Answer) -> ApiError:
    """The Status that was answered, or one made of a kubelet's plain words."""
    with suppress(ValueError, TypeError, AttributeError):
        if orjson.loads(answer.body).get("kind") == "Status":
            return error_of_body(answer.body, answer.head.status)
    text = answer.body.decode(errors="replace").strip()
    return ApiError(answer.head.status, "", f"unable to upgrade connection: {text or answer.head.reason}")
