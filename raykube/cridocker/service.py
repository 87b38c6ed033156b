"""The CRI server for Docker as a service: CRI on a unix socket."""

import asyncio
from contextlib import suppress
from pathlib import Path

from raykube.cridocker.config import HEALTHZ_PORT, Config
from raykube.cridocker.containers import Containers
from raykube.cridocker.core.requests import Host
from raykube.cridocker.cri import RuntimeHandler
from raykube.cridocker.engine import Engine, EngineError
from raykube.cridocker.images import ImageHandler
from raykube.cridocker.logs import Logs
from raykube.cridocker.network import Networks
from raykube.cridocker.sandboxes import Sandboxes
from raykube.cridocker.streams import StreamingServer
from raykube.pb import cri_pb2
from raykube.rpc.folder_lock import FolderLock
from raykube.rpc.health import HealthServer
from raykube.rpc.listen import join_address, split_address
from raykube.rpc.local_socket import LocalSocket, check_unix_endpoint
from raykube.rpc.server import Server

PING_S = 5.0  # between two questions whether Docker is there


class Service:
    """Containers are docker's, and outlive it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._socket = LocalSocket(config.container_runtime_endpoint, "--container-runtime-endpoint")
        self._engine = Engine(config.docker_endpoint)
        self._logs: Logs | None = None
        self._server: Server | None = None
        self._streaming: StreamingServer | None = None
        self._lock: FolderLock | None = None
        self._problem: str | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._health = HealthServer(lambda: self._problem, lambda: "")
        self._health_address = ""
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Raises ValueError for flags that make no sense, OSError when something is missing or taken."""
        config = self._config
        self._socket.check()
        check_unix_endpoint(config.docker_endpoint, "--docker-endpoint")
        self._lock = FolderLock(config.root_directory, 0o711, "cri-docker", "--root-directory")
        try:
            self._socket.make_folder()
            await self._engine.connect()
            await self._serve(config)
        except BaseException:
            await self.stop()
            raise

    async def _serve(self, config: Config) -> None:
        engine, root = self._engine, config.root_directory.absolute()
        least = int(Path("/proc/self/oom_score_adj").read_text()) if config.restrict_oom_score_adj else None
        host = Host(engine.info.get("CgroupDriver", "cgroupfs"), engine.api, least)
        networks = None
        if config.network_plugin == "cni":
            networks = Networks(config.cni_conf_dir, config.cni_bin_dir, root / "networks")
        resolvers = root / "resolvers"
        self._logs = Logs(engine, root / "logs")
        sandboxes = Sandboxes(engine, networks, self._logs, config.pod_infra_container_image, resolvers, host)
        containers = Containers(engine, sandboxes, self._logs, resolvers, host)
        await sandboxes.recover()
        await containers.recover()
        self._streaming = StreamingServer(engine, containers, sandboxes)
        await self._streaming.start(config.streaming_bind_addr)
        services = cri_pb2.DESCRIPTOR.services_by_name
        self._server = Server()
        runtime = RuntimeHandler(engine, networks, self._logs, sandboxes, containers, self._streaming)
        images = ImageHandler(engine, config.pod_infra_container_image, containers.forget_image)
        self._server.add(services["RuntimeService"], runtime)
        self._server.add(services["ImageService"], images)
        self._socket.listen(self._server)
        await self._server.start()
        if config.healthz_bind_address:
            address, port = split_address(config.healthz_bind_address, HEALTHZ_PORT)
            self._health_address = join_address(address, await self._health.start(address, port))
        self._pinging = asyncio.get_running_loop().create_task(self._ping())

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            try:
                async with asyncio.timeout(PING_S):
                    await self._engine.get("/version")
                self._problem = None
            except EngineError as error:
                self._problem = error.message
            except TimeoutError:
                self._problem = f"Docker does not answer within {PING_S:.0f} s"

    async def wait(self) -> None:
        await self._stopped.wait()

    async def stop(self) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
            with suppress(asyncio.CancelledError):
                await self._pinging
            self._pinging = None
        await self._health.stop()
        if self._streaming is not None:
            await self._streaming.stop()
            self._streaming = None
        await self._engine.close()  # ends the streams of events that would keep calls open
        if self._server is not None:
            await self._server.stop()
            self._server = None
            self._socket.remove()
        if self._logs is not None:
            await self._logs.close()
            self._logs = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        self._stopped.set()

    def status(self) -> dict[str, object]:
        """Healthy as long as Docker answers."""
        health = {"healthz": self._health_address} if self._health_address else {}
        return {
            "role": "",
            "healthy": self._server is not None and self._problem is None,
            "detail": self._problem or f"Docker {self._engine.version}",
            "addresses": {"cri": str(self._socket.path)} | health,
        }
