"""Health checks: is this apiserver there, and does it want traffic?

An HTTPS backend is asked `GET /readyz` again and again over one connection: cheap, and the end of that connection tells
of a crash at once. A gRPC backend is connected to and left,
and is as ready as the same apiserver's HTTPS side.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress

from raykube.router.core.pool import Health
from raykube.rpc.listen import split_address

ANSWER_BYTES_MAX = 64 * 1024


class ReadyCheck:
    """The check of one HTTPS backend; `context` None means plain HTTP."""

    def __init__(self, address: str, context: ssl.SSLContext | None, timeout_s: float) -> None:
        self.address = address
        self._context = context
        self._timeout_s = timeout_s
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __call__(self) -> tuple[Health, str]:
        """One check; a kept connection that broke is tried once more on a fresh one."""
        kept = self._streams is not None
        health, detail = await self._ask()
        if health is Health.DOWN and kept and detail != "no answer in time":
            return await self._ask()
        return health, detail

    async def _ask(self) -> tuple[Health, str]:
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._streams is None:
                    host, port = split_address(self.address)
                    self._streams = await asyncio.open_connection(host, port, ssl=self._context, limit=ANSWER_BYTES_MAX)
                code, reusable = await self._get(*self._streams)
        except TimeoutError:
            self.close()
            return Health.DOWN, "no answer in time"
        except (OSError, ValueError, EOFError, asyncio.LimitOverrunError) as error:
            self.close()
            return Health.DOWN, str(error) or type(error).__name__
        if not reusable:
            self.close()
        return (Health.UP, "") if code == 200 else (Health.UNREADY, f"/readyz answers {code}")

    async def _get(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bool]:
        writer.write(f"GET /readyz HTTP/1.1\r\nHost: {self.address}\r\nUser-Agent: raykube-router\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("http/1.") or not rest[:3].isdigit():
            raise ValueError("the answer is not HTTP")
        headers = dict(line.split(":", 1) for line in lines[1:] if ":" in line)
        length = headers.get("content-length", "").strip()
        if not length.isdigit() or int(length) > ANSWER_BYTES_MAX:
            return int(rest[:3]), False
        await reader.readexactly(int(length))
        return int(rest[:3]), "close" not in headers.get("connection", "")

    async def broken(self) -> None:
        """Returns when the kept connection ends; never while there is none."""
        if self._streams is None:
            await asyncio.Event().wait()
        else:
            # Nothing is asked now, so whatever arrives is the end.
            with suppress(OSError):
                await self._streams[0].read(1)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class ConnectCheck:
    """The check of one gRPC backend."""

    def __init__(self, address: str, timeout_s: float, partner: Callable[[str], Health | None]) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._partner = partner

    async def __call__(self) -> tuple[Health, str]:
        host, port = split_address(self.address)
        try:
            async with asyncio.timeout(self._timeout_s):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return Health.DOWN, "no answer in time"
        except OSError as error:
            return Health.DOWN, str(error)
        writer.close()
        if self._partner(self.address) is Health.UNREADY:
            return Health.UNREADY, "its /readyz says so"
        return Health.UP, ""

    async def broken(self) -> None:
        await asyncio.Event().wait()

    def close(self) -> None:
        """Nothing is kept."""
