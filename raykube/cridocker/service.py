"""The CRI server for Docker as a service: CRI on a unix socket."""

import asyncio
import fcntl
import os
from pathlib import Path

from raykube.cridocker.config import Config
from raykube.cridocker.containers import Containers
from raykube.cridocker.core.requests import Host
from raykube.cridocker.cri import RuntimeHandler
from raykube.cridocker.engine import Engine
from raykube.cridocker.images import ImageHandler
from raykube.cridocker.logs import Logs
from raykube.cridocker.network import Networks
from raykube.cridocker.sandboxes import Sandboxes
from raykube.cridocker.streams import StreamingServer
from raykube.pb import cri_pb2
from raykube.rpc.listen import socket_folder_flaw
from raykube.rpc.server import Server

SOCKET_PATH_BYTES_MAX = 107  # sun_path of the kernel, without the final zero


class Service:
    """Containers are docker's, and outlive it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._socket = Path(config.container_runtime_endpoint.removeprefix("unix:").removeprefix("//")).absolute()
        self._engine = Engine(config.docker_endpoint)
        self._logs: Logs | None = None
        self._server: Server | None = None
        self._streaming: StreamingServer | None = None
        self._lock = -1
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Raises ValueError for flags that make no sense, OSError when something is missing or taken."""
        config = self._config
        for flag, value in (
            ("--container-runtime-endpoint", config.container_runtime_endpoint),
            ("--docker-endpoint", config.docker_endpoint),
        ):
            if not value.startswith(("unix:", "/")):
                raise ValueError(f"{flag} must be a unix socket, as unix:///run/docker.sock; not {value!r}")
        if len(os.fsencode(self._socket)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(
                f"--container-runtime-endpoint: the path {self._socket} is longer than {SOCKET_PATH_BYTES_MAX} bytes"
            )
        try:
            config.root_directory.mkdir(mode=0o711, parents=True, exist_ok=True)
            self._socket.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make {error.filename}: {error.strerror}; choose another folder") from None
        if flaw := socket_folder_flaw(self._socket.parent.resolve()):
            raise OSError(f"--container-runtime-endpoint: {self._socket.parent} {flaw}: choose another folder")
        self._take_lock(config.root_directory)
        try:
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
        self._socket.unlink(missing_ok=True)  # of one that was killed: we hold the lock
        old_mask = os.umask(0o177)  # who may talk to the socket may run anything as root
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
            raise OSError(f"another cri-docker uses {root}: stop it, or choose another --root-directory") from None

    async def wait(self) -> None:
        await self._stopped.wait()

    async def stop(self) -> None:
        if self._streaming is not None:
            await self._streaming.stop()
            self._streaming = None
        await self._engine.close()  # ends the streams of events that would keep calls open
        if self._server is not None:
            await self._server.stop()
            self._server = None
            self._socket.unlink(missing_ok=True)
        if self._logs is not None:
            await self._logs.close()
            self._logs = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        self._stopped.set()

    def status(self) -> dict[str, object]:
        return {
            "role": "",
            "healthy": self._server is not None,
            "detail": f"Docker {self._engine.version}",
            "addresses": {"cri": str(self._socket)},
        }
