"""A store and apiservers in the test's own process and event loop, with real TLS and real sockets.

async with Apiservers(tmp_path) as servers:
    first = servers.instances[0]
    async with servers.session() as session: ...
    client = servers.client()
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from raykube.apiserver.config import Config
from raykube.apiserver.service import Service
from raykube.client.api import ApiClient
from raykube.kv.config import Config as KvConfig
from raykube.kv.service import Service as KvService
from tests.kit import pki
from tests.kit.ports import free_ports

ADMIN = ("kubernetes-admin", ("system:masters",))


class Apiservers:
    """One store member and `count` apiservers."""

    def __init__(self, folder: Path, count: int = 1, **flags: Any) -> None:
        self._folder = folder
        self._count = count
        self._flags = flags
        self.kv: KvService | None = None
        self.instances: list[Service] = []
        # A store that starts again must be who it was: its ports are fixed from the start.
        self.store_address, self._peer_address = (f"127.0.0.1:{port}" for port in free_ports(2))

    async def __aenter__(self) -> "Apiservers":
        await self.start_store()
        for _ in range(self._count):
            await self.add()
        return self

    async def start_store(self) -> None:
        """Starts the store; a second time with the same data and on the same port."""
        self.kv = KvService(
            KvConfig(
                name="m1",
                data_dir=self._folder / "kv",
                listen_client_urls=[f"http://{self.store_address}"],
                listen_peer_urls=[f"http://{self._peer_address}"],
            )
        )
        await self.kv.start()

    async def stop_store(self) -> None:
        if self.kv is not None:
            await self.kv.stop()
            self.kv = None

    async def add(self) -> Service:
        """One more apiserver."""
        service = Service(self.config())
        await service.start()
        self.instances.append(service)
        return service

    def config(self, **flags: Any) -> Config:
        tls = pki.tls("kube-apiserver", server=True)
        key = self._folder / "sa.key"
        if not key.exists():
            key.write_bytes(pki.signing_key()[0])
        fields: dict[str, Any] = {
            "etcd_servers": [self.store_address],
            "bind_address": "127.0.0.1",
            "secure_port": 0,
            "tls_cert_file": tls.cert_file,
            "tls_private_key_file": tls.key_file,
            "client_ca_file": tls.ca_file,
            "service_account_signing_key_file": key,
            **self._flags,
            **flags,
        }
        return Config(**fields)

    def address(self, api: str, index: int = 0) -> str:
        """`host:port` of an instance's "https" or "grpc" API."""
        addresses = self.instances[index].status()["addresses"]
        assert isinstance(addresses, dict)
        return str(addresses[api])

    def client(self, user: str = ADMIN[0], groups: tuple[str, ...] = ADMIN[1], index: int = 0) -> ApiClient:
        """A gRPC client of one instance."""
        return ApiClient([self.address("grpc", index)], pki.tls(user, groups))

    @asynccontextmanager
    async def session(
        self, user: str = ADMIN[0], groups: tuple[str, ...] = ADMIN[1], index: int = 0
    ) -> AsyncIterator[aiohttp.ClientSession]:
        """An HTTPS session with a user's certificate; without a user it shows none."""
        connector = aiohttp.TCPConnector(ssl=pki.client_context(user, groups))
        base = f"https://{self.address('https', index)}"
        async with aiohttp.ClientSession(base, connector=connector) as session:
            yield session

    def kubeconfig(self, user: str = ADMIN[0], groups: tuple[str, ...] = ADMIN[1], index: int = 0) -> Path:
        """A kubeconfig file for a user."""
        tls = pki.tls(user, groups)
        address = self.address("https", index)
        path = self._folder / f"{user.replace(':', '-')}-{index}.kubeconfig"
        path.write_text(
            f"""apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: test}}}}]
clusters: [{{name: test, cluster: {{server: "https://{address}", certificate-authority: {tls.ca_file}}}}}]
users: [{{name: test, user: {{client-certificate: {tls.cert_file}, client-key: {tls.key_file}}}}}]
"""
        )
        return path

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for service in self.instances:
            await service.stop()
        await self.stop_store()
