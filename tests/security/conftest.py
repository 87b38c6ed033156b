"""One cluster of plain processes for all tests of this folder, and a door opener for each kind of credential."""

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raykube.cluster import addresses, pki
from raykube.rpc import Tls
from tests.kit.controlplane import ControlPlane, until

CONNECT_S = 10


@dataclass(frozen=True)
class Answer:
    """What came back over HTTP."""

    code: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def status(self) -> dict[str, Any]:
        """The body as a Status object."""
        found: dict[str, Any] = json.loads(self.body)
        assert found["kind"] == "Status"
        return found


@dataclass
class Doors:
    """A running cluster and ways into it."""

    plane: ControlPlane
    folder: Path

    @property
    def address(self) -> str:
        return self.plane.state.machines[0].address

    def pair(self, name: str) -> Tls:
        return self.plane.tls(name)

    def foreign(self) -> Tls:
        """The administrator's name, signed by a CA that nobody here knows."""
        folder = self.folder / "foreign"
        if not folder.exists():
            folder.mkdir()
            pair = pki.issue(
                pki.new_ca("raykube-ca", time.time()), "kubernetes-admin", ["system:masters"], now=time.time()
            )
            pki.write_pair(folder, "admin", pair)
        return Tls(folder / "admin.crt", folder / "admin.key", self.pair("admin").ca_file)

    def signed(self, user: str, *groups: str) -> Tls:
        """A certificate of the cluster's CA for anybody."""
        folder = self.folder / "signed"
        folder.mkdir(exist_ok=True)
        name = user.replace(":", "-")
        pair = pki.issue(pki.read_pair(self.plane.data_dir / "pki", "ca"), user, groups, now=time.time())
        pki.write_pair(folder, name, pair)
        return Tls(folder / f"{name}.crt", folder / f"{name}.key", self.pair("admin").ca_file)

    def context(self, tls: Tls | None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.pair("admin").ca_file))
        if tls is not None:
            context.load_cert_chain(tls.cert_file, tls.key_file)
        return context

    def http(
        self,
        tls: Tls | None,
        path: str,
        method: str = "GET",
        body: bytes | dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        port: int = addresses.APISERVER_PORT,
    ) -> Answer:
        """One request over HTTPS. Raises OSError where the door stays shut."""
        connection = http.client.HTTPSConnection(self.address, port, context=self.context(tls), timeout=CONNECT_S)
        try:
            sent = json.dumps(body).encode() if isinstance(body, dict) else body
            given = {"Content-Type": "application/json"} if sent is not None else {}
            connection.request(method, path, sent, given | (headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()


def _answers(address: tuple[str, int]) -> bool:
    with socket.socket() as found:
        return found.connect_ex(address) == 0


@pytest.fixture(scope="package")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("security")
    # Only machines of different hosts relay for each other by default; that door, too, must be there.
    with ControlPlane(folder, extra_config={"kube-proxy": {"relay": "always"}}) as plane:
        plane.start("kv", "apiserver")
        plane.start("controller-manager", "scheduler", "router", "kubelet", "kube-proxy")
        relay = (plane.state.machines[0].address, addresses.KUBE_PROXY_RELAY_PORT)
        until("the relay", lambda: _answers(relay))  # it waits for its Node
        yield Doors(plane, folder)
