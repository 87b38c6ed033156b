"""Asks the child process of `nftchild`, and starts another one when it died."""

import asyncio
import os
import socket
import subprocess
import sys
from typing import Any

import orjson

ANSWER_TIMEOUT_S = 120.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class KernelError(OSError):
    """The kernel, or the library in front of it, refused; nothing has changed."""


class Kernel:
    """One child process. Calls wait for each other."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._open: Connection | None = None
        self._lock = asyncio.Lock()

    async def run(self, text: str, *, check: bool = False) -> None:
        """One transaction of nft commands; with `check` it is only tried. Raises KernelError."""
        await self._ask({"nft": text, "check": check})

    async def list_table(self, family: str, name: str) -> dict[str, Any] | None:
        """The table as JSON, None when there is none. Raises KernelError."""
        try:
            text = await self._ask({"nft": f"list table {family} {name}\n", "json": True})
            found: dict[str, Any] = orjson.loads(text)
        except KernelError as error:
            if "No such file or directory" in str(error):
                return None
            raise
        except ValueError as error:
            raise KernelError(f"unreadable listing: {error}") from None
        return found

    async def has_table(self, family: str, name: str) -> bool:
        """Whether there is such a table. Raises KernelError."""
        out = await self._ask({"nft": f"list tables {family}\n"})
        return f"table {family} {name}" in out.splitlines()

    async def forget(self, flows: list[dict[str, Any]]) -> int:
        """Deletes tracked flows, as `nftchild` says; returns how many. Raises KernelError."""
        return int(await self._ask({"flows": flows}))

    async def _ask(self, request: dict[str, Any]) -> str:
        body = orjson.dumps(request)
        async with self._lock:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    reader, writer = await self._connection()
                    writer.write(len(body).to_bytes(4, "big") + body)
                    await writer.drain()
                    head = await reader.readexactly(4)
                    answer = orjson.loads(await reader.readexactly(int.from_bytes(head, "big")))
            except BaseException as error:
                # An answer that comes late must not be taken for the next one's.
                self._end()
                if isinstance(error, TimeoutError | OSError | asyncio.IncompleteReadError):
                    raise KernelError(f"the process that talks to the kernel ended: {error!r}") from None
                raise
        if answer["code"] != 0:
            raise KernelError(str(answer["error"]).strip()[:2000] or f"code {answer['code']}")
        return str(answer["out"])

    async def _connection(self) -> Connection:
        if self._open is None:
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", "raykube.kubeproxy.nftchild", str(os.getpid())]
                self._process = subprocess.Popen(  # noqa: ASYNC220 - returns after a vfork
                    command, stdin=theirs.fileno(), stdout=theirs.fileno(), start_new_session=True
                )
            self._open = await asyncio.open_unix_connection(sock=ours)
        return self._open

    def _end(self) -> None:
        process, self._process = self._process, None
        opened, self._open = self._open, None
        if opened is not None:
            opened[1].transport.abort()
        if process is not None:
            process.kill()
            process.wait()  # what was killed ends at once

    async def stop(self) -> None:
        """Ends the child."""
        self._end()
