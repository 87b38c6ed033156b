"""Machines for the pod network: a network namespace each, joined by a router with two segments, and pods on them.

    near  192.0.2.0/24     m1, m2, an outside host       ┐
    far   198.51.100.0/24  m3                            ┘ the router forwards between them and knows no pod

The real service runs in each machine's namespace; pods are attached by the real CNI plug-ins, as a runtime calls them.
Sockets of pods are made in their namespaces and used from the test's own process.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pyroute2 import netns

from raykube.podnetwork.core.conflist import FILE_NAME
from tests.kit import pki
from tests.kit.require import missing, require_program
from tests.kubeproxy.api_twin import ApiTwin

PLUGINS = Path("/usr/lib/cni")
API_HOST = "192.0.2.1"
SEGMENTS = {"near": "192.0.2", "far": "198.51.100"}
CONNECT_S = 0.7
CIDRS = {"m1": "10.244.1.0/24", "m2": "10.244.2.0/24", "m3": "10.244.3.0/24"}
HOSTS = {"m1": "192.0.2.11", "m2": "192.0.2.12", "m3": "198.51.100.13"}


def run(*command: str, input_text: str | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, input=input_text, capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """This thread is in the network namespace for as long: sockets made there stay there."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


class World:
    """Use it as a context manager; everything it made is gone afterwards."""

    def __init__(self, folder: Path) -> None:
        if os.geteuid() != 0:
            missing("needs root, for network namespaces")
        for program in ("ip", "nft", "nsenter", "unshare"):
            require_program(program)
        if not (PLUGINS / "bridge").exists():
            missing(f"needs the CNI plug-ins in {PLUGINS}")
        self._folder = folder
        self._prefix = f"rkn{os.getpid()}"
        self._namespaces: list[str] = []
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._servers: list[socket.socket] = []
        self.addresses: dict[str, str] = {}
        self.twin = ApiTwin()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.stop(name, kill=True)
        for server in self._servers:
            server.close()
        for name in reversed(self._namespaces):
            netns.remove(name)

    # -- the network

    def _namespace(self, name: str) -> str:
        full = f"{self._prefix}{name}"
        netns.create(full)
        self._namespaces.append(full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    async def start(self) -> None:
        """The router, and the apiservers' twin on it."""
        self._router = self._namespace("r")
        for segment, prefix in SEGMENTS.items():
            run("ip", "-n", self._router, "link", "add", segment, "type", "bridge")
            run("ip", "-n", self._router, "addr", "add", f"{prefix}.1/24", "dev", segment)
            run("ip", "-n", self._router, "link", "set", segment, "up")
        with inside(self._router):
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            await self.twin.start(host=API_HOST)

    def add_host(self, name: str, address: str) -> None:
        """A namespace on the segment of `address`, with the router as its gateway."""
        segment = next(key for key, prefix in SEGMENTS.items() if address.startswith(prefix))
        full = self._namespace(name)
        run(
            "ip", "-n", self._router, "link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", full
        )
        run("ip", "-n", self._router, "link", "set", f"to-{name}", "master", segment, "up")
        run("ip", "-n", full, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", full, "link", "set", "eth0", "up")
        run("ip", "-n", full, "route", "add", "default", "via", f"{SEGMENTS[segment]}.1")
        self.addresses[name] = address

    def nsname(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def kernel(self, name: str, *command: str) -> str:
        """A command in the namespace of a host or pod."""
        return run("nsenter", f"--net=/run/netns/{self.nsname(name)}", *command)

    # -- the service

    def home(self, name: str) -> Path:
        return self._folder / name

    def serve(self, name: str, **flags: str) -> None:
        """Starts the pod network on a host."""
        folder = self.home(name)
        (folder / "cni").mkdir(parents=True, exist_ok=True)
        tls = pki.tls("raykube:pod-network")
        given = {
            "hostname-override": name,
            "api-servers": f"{API_HOST}:{self.twin.address.rpartition(':')[2]}",
            "tls-cert-file": str(tls.cert_file),
            "tls-private-key-file": str(tls.key_file),
            "client-ca-file": str(tls.ca_file),
            "cni-conf-dir": str(folder / "cni"),
            "cni-data-dir": str(folder / "addresses"),
            "min-sync-period": "20ms",
            **{key.replace("_", "-"): value for key, value in flags.items()},
        }
        arguments = [f"--{key}={value}" for key, value in given.items()]
        command = [sys.executable, "-m", "raykube", "pod-network", *arguments]
        with (folder / "log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.nsname(name)}", *command], stdout=log, stderr=log
            )

    def stop(self, name: str, *, kill: bool = False) -> None:
        process = self._processes.pop(name)
        process.kill() if kill else process.terminate()
        process.wait(20)

    def log(self, name: str) -> str:
        return (self.home(name) / "log").read_text()

    # -- pods

    def add_pod(self, host: str, name: str) -> str:
        """A namespace attached by the host's CNI configuration, as a container runtime does it; returns its address."""
        full = self._namespace(name)
        document = json.loads((self.home(host) / "cni" / FILE_NAME).read_text())
        result: dict[str, Any] | None = None
        for plugin in document["plugins"]:
            call = {"cniVersion": document["cniVersion"], "name": document["name"], **plugin}
            if result is not None:
                call["prevResult"] = result
            environment = {
                "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": full,
                "CNI_NETNS": f"/run/netns/{full}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": str(PLUGINS),
            }
            namespace = f"--net=/run/netns/{self.nsname(host)}"
            program = str(PLUGINS / plugin["type"])
            result = json.loads(run("nsenter", namespace, program, input_text=json.dumps(call), env=environment))
        assert result is not None
        self.addresses[name] = result["ips"][0]["address"].split("/")[0]
        return self.addresses[name]

    def remove_pod(self, name: str) -> None:
        """Its namespace goes, and its interfaces with it; nobody tells the plug-ins."""
        full = self.nsname(name)
        self._namespaces.remove(full)
        netns.remove(full)

    def listen(self, name: str, port: int) -> None:
        """A server in a host or pod that answers each connection with the peer's address."""
        family, any_address = _family(self.addresses[name])
        with inside(self.nsname(name)):
            server = socket.create_server((any_address, port), family=family)
        self._servers.append(server)

        def answer() -> None:
            while True:
                try:
                    connection, peer = server.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.sendall(peer[0].encode())

        threading.Thread(target=answer, daemon=True).start()

    def ask(self, name: str, address: str, port: int) -> str:
        """Who a server says is asking; "" if nothing answers within a moment."""
        with inside(self.nsname(name)):
            client = socket.socket(_family(address)[0])
        with client, contextlib.suppress(OSError):
            client.settimeout(CONNECT_S)
            client.connect((address, port))
            return client.recv(100).decode()
        return ""


def _family(address: str) -> tuple[int, str]:
    return (socket.AF_INET6, "::") if ":" in address else (socket.AF_INET, "0.0.0.0")


def node(name: str, address: str, *cidrs: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def pod(
    name: str,
    node_name: str,
    address: str,
    *,
    namespace: str = "default",
    ports: dict[str, int] | None = None,
    **labels: str,
) -> dict[str, Any]:
    listed = [{"name": key, "containerPort": number} for key, number in (ports or {}).items()]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": node_name, "containers": [{"name": "c", "ports": listed}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}] if address else []},
    }


def namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def policy(name: str = "p", *, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"podSelector": {}, **spec},
    }
