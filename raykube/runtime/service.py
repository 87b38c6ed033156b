"""The process runtime as a service: CRI on a unix socket."""

import asyncio
import fcntl
import os
from importlib.metadata import version
from pathlib import Path

from raykube.pb import cri_pb2
from raykube.rpc.listen import socket_folder_flaw
from raykube.rpc.server import Server
from raykube.runtime.config import Config
from raykube.runtime.containers import Runtime
from raykube.runtime.cri import ImageHandler, RuntimeHandler
from raykube.runtime.streaming import StreamingServer

SOCKET_PATH_BYTES_MAX = 107  # sun_path of the kernel, without the final zero


class Service:
    """Containers outlive it: stop it, start it again on the same directory, and they are there."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._socket = Path(config.listen.removeprefix("unix:").removeprefix("//")).absolute()
        self._runtime: Runtime | None = None
        self._server: Server | None = None
        self._streaming: StreamingServer | None = None
        self._lock = -1
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        config = self._config
        if not config.listen.startswith(("unix:", "/")):
            raise ValueError(f"--listen must be a unix socket, as unix:///run/raykube.sock; not {config.listen!r}")
        if len(os.fsencode(self._socket)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"--listen: the path {self._socket} is longer than {SOCKET_PATH_BYTES_MAX} bytes")
        try:
            config.root_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"cannot make {error.filename}: {error.strerror}; choose another --root-dir or --listen"
            ) from None
        if flaw := socket_folder_flaw(self._socket.parent.resolve()):
            raise OSError(f"--listen: {self._socket.parent} {flaw}: choose another folder")
        self._take_lock(config.root_dir)
        try:
            await self._serve(config)
        except BaseException:
            await self.stop()
            raise

    async def _serve(self, config: Config) -> None:
        try:
            self._runtime = Runtime(config)
        except ValueError as error:
            raise ValueError(f"--pod-cidr: {error}") from None
        await self._runtime.recover()
        self._socket.unlink(missing_ok=True)  # of a runtime that was killed: we hold the lock
        self._server = Server()
        services = cri_pb2.DESCRIPTOR.services_by_name
        self._streaming = StreamingServer(self._runtime)
        await self._streaming.start(config.streaming_bind_addr)
        self._server.add(services["RuntimeService"], RuntimeHandler(self._runtime, self._streaming, version("raykube")))
        self._server.add(services["ImageService"], ImageHandler(str(config.root_dir)))
        old_mask = os.umask(0o177)  # who may talk to the socket may run anything as this user
        try:
            self._server.listen(f"unix:{self._socket}")
        finally:
            os.umask(old_mask)
        await self._server.start()

    def _take_lock(self, root: Path) -> None:
        self._lock = os.open(root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = -1
            raise OSError(f"another runtime uses {root}: stop it, or choose another --root-dir") from None

    async def wait(self) -> None:
        await self._stopped.wait()

    async def stop(self) -> None:
        if self._runtime is not None:
            self._runtime.close()  # first: it ends the event streams that would keep calls open
            self._runtime = None
        if self._streaming is not None:
            await self._streaming.stop()
            self._streaming = None
        if self._server is not None:
            await self._server.stop()
            self._server = None
            self._socket.unlink(missing_ok=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._stopped.set()

    def status(self) -> dict[str, object]:
        running = self._runtime
        count = 0
        if running is not None:
            count = sum(record.state == cri_pb2.CONTAINER_RUNNING for record in running.containers())
        return {
            "role": "",
            "healthy": running is not None,
            "detail": f"{count} containers",
            "addresses": {"cri": str(self._socket)},
        }
