"""Asks child processes what to do in the kernel, and starts another one when one died."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import orjson

ANSWER_TIMEOUT_S = 120.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class KernelError(OSError):
    """The kernel, or the library in front of it, refused; nothing has changed."""


class ChildEnded(KernelError):
    """Nothing was refused: the process that was asked is gone, or does not answer, and the next one may."""


class Child:
    """A process that runs `program`, a module that calls `child.serve`. Calls wait for each other."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._open: Connection | None = None
        self._lock = asyncio.Lock()

    async def ask(self, request: dict[str, Any]) -> str:
        """What the child's program says to the request. Raises KernelError."""
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
                    raise ChildEnded(f"the process that talks to the kernel ended: {error!r}") from None
                raise
        if answer["code"] != 0:
            raise KernelError(str(answer["error"]).strip()[:2000] or f"code {answer['code']}")
        return str(answer["out"])

    async def _connection(self) -> Connection:
        if self._open is None:
            ours, theirs = socket.socketpair()
            with theirs:
                command = [sys.executable, "-m", self._program, str(os.getpid())]
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


class Kernel(Child):
    """nftables."""

    def __init__(self) -> None:
        super().__init__("raykube.nftables.backend")

    async def run(self, text: str, *, check: bool = False) -> None:
        """One transaction of nft commands; with `check` it is only tried. Raises KernelError."""
        await self.ask({"nft": text, "check": check})

    async def list_table(self, table: str) -> dict[str, Any] | None:
        """The table as JSON, None when there is none. Raises KernelError."""
        try:
            text = await self.ask({"nft": f"list table {table}\n", "json": True})
            found: dict[str, Any] = orjson.loads(text)
        except KernelError as error:
            if "No such file or directory" in str(error):
                return None
            raise
        except ValueError as error:
            raise KernelError(f"unreadable listing: {error}") from None
        return found

    async def require_chains(self, chains: Iterable[str]) -> None:
        """Raises KernelError unless all are there; each as `FAMILY TABLE CHAIN`."""
        # Only tried: nft would read every element of every table before it lists the names of the tables.
        await self.run("".join(f"flush chain {chain}\n" for chain in chains), check=True)

    async def has_table(self, table: str) -> bool:
        """Whether there is such a table. Raises KernelError."""
        family = table.partition(" ")[0]
        out = await self.ask({"nft": f"list tables {family}\n"})
        return f"table {table}" in out.splitlines()
