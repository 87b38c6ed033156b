"""The client of the Docker Engine API, over docker's unix socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlencode

import aiohttp

from raykube.rpc import Code, RpcError

Object = dict[str, Any]

API_MIN, API_MAX = (1, 41), (1, 44)  # what this is written against
HEAD_BYTES_MAX = 64 * 1024
PIECE_BYTES = 64 * 1024
_CODES = {
    400: Code.INVALID_ARGUMENT,
    404: Code.NOT_FOUND,
    409: Code.ALREADY_EXISTS,
    304: Code.OK,
}


class EngineError(RpcError):
    """A refusal of dockerd, with its HTTP status; 0 when it did not answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(_CODES.get(status, Code.UNKNOWN) if status else Code.UNAVAILABLE, message)
        self.status = status


def _query(parameters: Mapping[str, Any]) -> str:
    """Objects and lists as JSON, booleans as docker takes them; what is None is left out."""
    found = {}
    for key, value in parameters.items():
        if isinstance(value, bool):
            found[key] = str(int(value))
        elif isinstance(value, Mapping | list):
            found[key] = json.dumps(value)
        elif value is not None:
            found[key] = str(value)
    return f"?{urlencode(found)}" if found else ""


class Hijacked:
    """A connection that became a plain stream of bytes, each way on its own."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        """Raises OSError."""
        self.writer.write(data)
        await self.writer.drain()

    def end_input(self) -> None:
        with suppress(OSError):
            self.writer.write_eof()

    def close(self) -> None:
        self.writer.close()


class Engine:
    """Every call raises EngineError."""

    def __init__(self, endpoint: str) -> None:
        self._path = endpoint.removeprefix("unix:").removeprefix("//")
        self._session: aiohttp.ClientSession | None = None
        self._prefix = ""
        self.api = API_MIN
        self.info: Object = {}
        self.version = ""

    async def connect(self) -> None:
        """Agrees on a version of the API. Raises OSError when there is no docker, or one that is too old."""
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(path=self._path, limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
        )
        try:
            told = await self.get("/version")
            offered = tuple(int(part) for part in told["ApiVersion"].split("."))
            if offered < API_MIN:
                raise OSError(f"Docker {told['Version']} is too old: it speaks API {told['ApiVersion']}, not 1.41")
            self.api = min((offered[0], offered[1]), API_MAX)
            self._prefix = f"/v{self.api[0]}.{self.api[1]}"
            self.version = told["Version"]
            self.info = await self.get("/info")
        except EngineError as error:
            await self.close()
            raise OSError(f"--docker-endpoint: Docker does not answer on {self._path}: {error.message}") from None
        except OSError:
            await self.close()
            raise

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def _ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, **query: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise EngineError(0, "the connection to Docker is closed")
        url = f"http://docker{self._prefix}{path}{_query(query)}"
        try:
            async with self._session.request(method, url, json=body, headers=headers) as response:
                if response.status >= 400:
                    raise EngineError(response.status, _message(await response.read()))
                yield response
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(0, f"Cannot connect to the Docker daemon at unix://{self._path}: {error}") from None

    async def get(self, path: str, **query: Any) -> Any:
        async with self._ask("GET", path, **query) as response:
            return json.loads(await response.read())

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """The answer's JSON; None when it has none."""
        async with self._ask("POST", path, body, **query) as response:
            data = await response.read()
            return json.loads(data) if data else None

    async def delete(self, path: str, **query: Any) -> None:
        async with self._ask("DELETE", path, **query) as response:
            await response.read()

    async def pieces(self, path: str, **query: Any) -> AsyncIterator[bytes]:
        """A body as it comes."""
        async with self._ask("GET", path, **query) as response:
            async for piece in response.content.iter_any():
                yield piece

    async def lines(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **query: Any
    ) -> AsyncIterator[Object]:
        """A body of JSON objects, one a line, as they come."""
        async with self._ask(method, path, headers=headers, **query) as response:
            buffer = b""
            async for piece in response.content.iter_any():
                *whole, buffer = (buffer + piece).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield json.loads(line)

    async def hijack(self, path: str, body: Any = None, **query: Any) -> Hijacked:
        """Asks for an upgrade to a plain stream; its reader and writer are the caller's to close."""
        data = json.dumps(body).encode() if body is not None else b""
        head = (
            f"POST {self._prefix}{path}{_query(query)} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n"
            f"Upgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        try:
            reader, writer = await asyncio.open_unix_connection(self._path, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise EngineError(0, f"Cannot connect to the Docker daemon at unix://{self._path}: {error}") from None
        try:
            writer.write(head.encode() + data)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status = int(answer.split(" ", 2)[1])
            if status not in (101, 200):
                message = _message(await _rest(reader, answer))
                raise EngineError(status, message)
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            writer.close()
            raise EngineError(0, f"Docker ended the connection: {error}") from None
        except BaseException:
            writer.close()
            raise
        return Hijacked(reader, writer)


async def _rest(reader: asyncio.StreamReader, head: str) -> bytes:
    for line in head.lower().split("\r\n"):
        name, _, value = line.partition(":")
        if name == "content-length":
            return await reader.readexactly(min(int(value), HEAD_BYTES_MAX))
    return await reader.read(HEAD_BYTES_MAX)


def _message(body: bytes) -> str:
    with suppress(ValueError):
        told = json.loads(body)
        if isinstance(told, dict):
            return str(told.get("message", ""))
    return body.decode(errors="replace").strip()
