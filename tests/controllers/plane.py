"""A store and an apiserver in this process, for tests that run the controller-manager against the real API."""

import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from raykube.apiserver.config import Config as ApiConfig
from raykube.apiserver.service import Service as ApiService
from raykube.client.api import ApiClient
from raykube.controllers.config import Config
from raykube.controllers.service import Service
from raykube.kv.config import Config as KvConfig
from raykube.kv.service import Service as KvService


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Plane:
    """`async with Plane(folder) as plane:` then `await plane.manager(...)`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._services: list[Any] = []
        self.managers: list[Service] = []

    async def __aenter__(self) -> "Plane":
        client_port, peer_port = free_port(), free_port()
        store = KvService(
            KvConfig(
                data_dir=self._folder / "kv",
                listen_client_urls=[f"http://127.0.0.1:{client_port}"],
                listen_peer_urls=[f"http://127.0.0.1:{peer_port}"],
            )
        )
        await self._start(store)
        api = ApiService(
            ApiConfig(
                etcd_servers=[f"127.0.0.1:{client_port}"],
                bind_address="127.0.0.1",
                secure_port=0,
                grpc_port=0,
                authorization_mode=["AlwaysAllow"],
            )
        )
        await self._start(api)
        self.grpc = str(api.status()["addresses"]["grpc"])  # type: ignore[index]  # dict by contract
        self.client = ApiClient([self.grpc])
        return self

    async def _start(self, service: Any) -> None:
        self._services.append(service)
        await service.start()

    async def manager(self, **flags: Any) -> Service:
        """A controller-manager that runs."""
        service = Service(Config(api_servers=[self.grpc], secure_port=0, **flags))
        self.managers.append(service)
        await self._start(service)
        return service

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.client.close()
        for service in reversed(self._services):
            await service.stop()
