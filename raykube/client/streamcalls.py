"""What `raykube.Client` does with running containers: exec, attach, port-forward, copying files. Synchronous.

    client.exec("web", ["cat", "/etc/hostname"]).stdout
    with client.open_exec("web", ["sh"], tty=True) as shell: ...
    with client.port_forward("deployment/web", 8080) as forward: urlopen(f"http://127.0.0.1:{forward.port}/")
    client.copy_to("web", "page.html", "/srv/index.html")

Copies go through `tar` in the container, as kubectl's do.
"""

import asyncio
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Protocol, cast

from raykube.client.extraction import extract
from raykube.client.loop import LoopThread
from raykube.client.objects import Object
from raykube.client.portforward import PortForward
from raykube.client.remotecommand import RemoteCommands, Session

WRITE_BYTES = 256 * 1024
MESSAGE_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command left; `stderr` is empty when it had a terminal."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """stdout as text."""
        return self.stdout.decode(errors="replace")


class CommandError(Exception):
    """A command ended with another exit code than 0."""

    def __init__(self, command: Sequence[str], result: ExecResult) -> None:
        message = result.stderr[-MESSAGE_BYTES_MAX:].decode(errors="replace").strip()
        text = f"{' '.join(command)!r} ended with exit code {result.code}"
        super().__init__(f"{text}: {message}" if message else text)
        self.result = result


class InteractiveSession:
    """An exec or attach that goes on; iterate for ("stdout" or "stderr", bytes). Leave it by `close` or `with`."""

    def __init__(self, loop: LoopThread, session: Session) -> None:
        self._loop = loop
        self._session = session

    def __enter__(self) -> "InteractiveSession":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        while (piece := self._loop.call(_piece(self._session))) is not None:
            yield piece

    def write(self, data: bytes | str) -> None:
        """Gives input; returns when there is room for more. Raises ConnectionError when nobody takes it any more."""
        raw = data.encode() if isinstance(data, str) else data
        for start in range(0, len(raw), WRITE_BYTES):
            self._loop.call(self._session.write(raw[start : start + WRITE_BYTES]))

    def close_stdin(self) -> None:
        """Says that no more input comes; output goes on."""
        self._loop.call(self._session.end_input())

    def resize(self, columns: int, rows: int) -> None:
        """Tells the terminal its size."""
        self._loop.call(self._session.resize(columns, rows))

    def wait(self) -> int:
        """Reads what output is left, drops it, and returns the exit code. Raises ApiError when the session broke."""
        for _ in self:
            pass
        return self._loop.call(self._session.code())

    def close(self) -> None:
        """Leaves: a command that still runs is ended; what one was attached to goes on."""
        if self._loop.running:
            self._loop.call(self._session.close())


async def _piece(session: Session) -> tuple[str, bytes] | None:
    try:
        return await anext(session)
    except StopAsyncIteration:
        return None


class Forward:
    """A port-forward that runs until `close`, or the end of `with`."""

    def __init__(self, loop: LoopThread, forward: PortForward, address: str, port: int) -> None:
        self._loop = loop
        self._forward = forward
        self.address = address
        self.port = port

    def __enter__(self) -> "Forward":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._loop.running:
            self._loop.call(self._forward.close())


class _Finder(Protocol):
    """What these calls need of the client."""

    _loop: LoopThread

    def _log_pod(self, target: str | Object, namespace: str | None) -> tuple[str, str]: ...

    def _commands(self) -> RemoteCommands: ...


class StreamCalls:
    """The calls, for `Client` to inherit. `target` is a pod, or what has pods (`deployment/web`): its first."""

    def exec(
        self,
        target: str | Object,
        command: Sequence[str],
        *,
        stdin: bytes | str = b"",
        container: str = "",
        namespace: str | None = None,
        check: bool = False,
        timeout: float | None = None,
    ) -> ExecResult:
        """Runs a command in a container to its end.

        Raises ApiError when it cannot run, TimeoutError after `timeout` seconds (the command is ended then), and
        CommandError for an exit code other than 0 if `check`.
        """
        client = cast(_Finder, self)
        scope, pod = client._log_pod(target, namespace)
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        work = _run(client._commands(), scope, pod, command, container, raw, timeout)
        result = client._loop.call(work)
        if check and result.code:
            raise CommandError(command, result)
        return result

    def open_exec(
        self,
        target: str | Object,
        command: Sequence[str],
        *,
        container: str = "",
        namespace: str | None = None,
        tty: bool = False,
    ) -> InteractiveSession:
        """Starts a command in a container, to talk with. Raises ApiError."""
        client = cast(_Finder, self)
        scope, pod = client._log_pod(target, namespace)
        work = client._commands().exec(scope, pod, command, container=container, stdin=True, tty=tty)
        return InteractiveSession(client._loop, client._loop.call(work))

    def attach(
        self,
        target: str | Object,
        *,
        container: str = "",
        namespace: str | None = None,
        stdin: bool = False,
        tty: bool = False,
    ) -> InteractiveSession:
        """Joins a running container's own output, and its input if it has one. Raises ApiError."""
        client = cast(_Finder, self)
        scope, pod = client._log_pod(target, namespace)
        work = client._commands().attach(scope, pod, container=container, stdin=stdin, tty=tty)
        return InteractiveSession(client._loop, client._loop.call(work))

    def port_forward(
        self,
        target: str | Object,
        port: int,
        *,
        local_port: int = 0,
        address: str = "127.0.0.1",
        namespace: str | None = None,
    ) -> Forward:
        """Makes a port of this computer (0: any free one) lead to a port of a pod. Raises ApiError, OSError."""
        client = cast(_Finder, self)
        scope, pod = client._log_pod(target, namespace)

        async def start() -> tuple[PortForward, int]:
            forward = PortForward(client._commands(), scope, pod, port)
            try:
                return forward, await forward.start(address, local_port)
            except BaseException:
                await forward.close()
                raise

        forward, bound = client._loop.call(start())
        return Forward(client._loop, forward, address, bound)

    def copy_to(
        self,
        target: str | Object,
        source: str | Path,
        destination: str,
        *,
        container: str = "",
        namespace: str | None = None,
    ) -> None:
        """Copies a file or folder into a container, as `destination`, or below it if that ends with a slash.

        Raises FileNotFoundError, ApiError, and CommandError with tar's words.
        """
        path = Path(source)
        path.lstat()
        place = PurePosixPath(destination) / path.name if destination.endswith("/") else PurePosixPath(destination)
        command = ["tar", "xmf", "-", "-C", str(place.parent)]
        with self.open_exec(target, command, container=container, namespace=namespace) as session:
            try:
                with tarfile.open(fileobj=cast(IO[bytes], _Writer(session)), mode="w|") as archive:
                    archive.add(path, arcname=place.name)
                session.close_stdin()
            except ConnectionError:
                pass  # tar ended before its input did: it says why
            _expect_success(session, command)

    def copy_from(
        self,
        target: str | Object,
        source: str,
        destination: str | Path,
        *,
        container: str = "",
        namespace: str | None = None,
    ) -> None:
        """Copies a file or folder out of a container, as `destination`. What would lead out of that is refused, and
        nothing copied then.

        Raises ApiError, CommandError with tar's words, and tarfile.TarError.
        """
        place, path = PurePosixPath(source), Path(destination)
        command = ["tar", "cf", "-", "-C", str(place.parent), place.name]
        with self.open_exec(target, command, container=container, namespace=namespace) as session:
            session.close_stdin()
            reader = _Reader(session)
            try:
                with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r|") as archive:
                    extract(archive, path)
            except tarfile.ReadError:
                _expect_success(session, command, reader.errors)
                raise
            _expect_success(session, command, reader.errors)


async def _run(
    commands: RemoteCommands,
    namespace: str,
    pod: str,
    command: Sequence[str],
    container: str,
    stdin: bytes,
    timeout: float | None,
) -> ExecResult:
    outputs = {"stdout": bytearray(), "stderr": bytearray()}
    async with asyncio.timeout(timeout):
        async with await commands.exec(namespace, pod, command, container=container, stdin=bool(stdin)) as session:

            async def give() -> None:
                for start in range(0, len(stdin), WRITE_BYTES):
                    await session.write(stdin[start : start + WRITE_BYTES])
                await session.end_input()

            giving = asyncio.ensure_future(give()) if stdin else None
            try:
                async for name, data in session:
                    outputs[name] += data
                code = await session.code()
            finally:
                if giving is not None:
                    giving.cancel()
                    await asyncio.gather(giving, return_exceptions=True)
    return ExecResult(code, bytes(outputs["stdout"]), bytes(outputs["stderr"]))


def _expect_success(session: InteractiveSession, command: Sequence[str], errors: bytes = b"") -> None:
    stderr = bytearray(errors)
    for name, data in session:
        if name == "stderr":
            stderr += data
    code = session.wait()
    if code:
        raise CommandError(command, ExecResult(code, b"", bytes(stderr)))


class _Writer:
    """A session's input as a file for tarfile."""

    def __init__(self, session: InteractiveSession) -> None:
        self._session = session

    def write(self, data: bytes) -> int:
        self._session.write(data)
        return len(data)


class _Reader:
    """A session's stdout as a file for tarfile; what came on stderr collects in `errors`."""

    def __init__(self, session: InteractiveSession) -> None:
        self._pieces = iter(session)
        self._waiting = bytearray()
        self.errors = b""

    def read(self, size: int) -> bytes:
        while len(self._waiting) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            if piece[0] == "stdout":
                self._waiting += piece[1]
            else:
                self.errors += piece[1]
        data = bytes(self._waiting[:size])
        del self._waiting[:size]
        return data
