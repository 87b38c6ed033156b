"""The process runtime as a service: CRI on a unix socket."""

import asyncio
from importlib.metadata import version

from raykube.pb import cri_pb2
from raykube.rpc.folder_lock import FolderLock
from raykube.rpc.local_socket import LocalSocket
from raykube.rpc.server import Server
from raykube.runtime.config import Config
from raykube.runtime.containers import Runtime
from raykube.runtime.cri import ImageHandler, RuntimeHandler
from raykube.runtime.streaming import StreamingServer


class Service:
    """Containers outlive it: stop it, start it again on the same directory, and they are there."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._socket = LocalSocket(config.listen, "--listen")
        self._runtime: Runtime | None = None
        self._server: Server | None = None
        self._streaming: StreamingServer | None = None
        self._lock: FolderLock | None = None
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        config = self._config
        self._socket.check()
        self._lock = FolderLock(config.root_dir, 0o711, "runtime", "--root-dir")
        try:
            self._socket.make_folder()
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
        self._server = Server()
        services = cri_pb2.DESCRIPTOR.services_by_name
        self._streaming = StreamingServer(self._runtime)
        await self._streaming.start(config.streaming_bind_addr)
        self._server.add(services["RuntimeService"], RuntimeHandler(self._runtime, self._streaming, version("raykube")))
        self._server.add(services["ImageService"], ImageHandler(str(config.root_dir)))
        self._socket.listen(self._server)
        await self._server.start()

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
            self._socket.remove()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
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
            "addresses": {"cri": str(self._socket.path)},
        }
