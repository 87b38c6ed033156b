"""A network to send packets through: two nodes with pods, a host outside, and the wire between them.

    outside 192.168.77.9 ──┐                     ┌── m1 192.168.77.1 ── pods a 10.1.1.2, b 10.1.1.3
                           ├── lan, a bridge ────┤
    the API 192.168.77.254 ┘                     └── m2 192.168.77.2 ── pods c 10.1.2.2, d 10.1.2.3

and the same in IPv6: fd77::N, fd01:M::N. Service addresses are 10.96.0.0/16 and fd96::/112, external ones
192.0.2.0/24; `outside` sends them to m1. In user space a proxy can only serve addresses of its own node, so there
all of them are.

Each pod and node answers on ports 8080 (TCP) and 5353 (UDP) with `name from CLIENT`.
"""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from raykube.api.resources import by_kind
from tests.kit import pki
from tests.kit.netns import Namespace, join, require_network_namespaces
from tests.kit.require import require_program
from tests.kubeproxy.api_twin import ApiTwin
from tests.kubeproxy.objects import node

API_ADDRESS = "192.168.77.254"
TCP_PORT, UDP_PORT = 8080, 5353
PODS = {"a": "m1", "b": "m1", "c": "m2", "d": "m2"}
ANSWERING = PODS | {"m1": "m1", "m2": "m2"}  # and the nodes, as pods in their network do
SERVED = {"IPv4": ("10.96.0.0/16", "192.0.2.0/24"), "IPv6": ("fd96::/112",)}
assert by_kind is not None


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Network:
    """The namespaces and who answers in them."""

    def __init__(self, *, all_local: bool) -> None:
        require_network_namespaces()
        self._servers: list[asyncio.AbstractServer | asyncio.DatagramTransport] = []
        self.spaces = {name: Namespace() for name in ("lan", "m1", "m2", "outside", *PODS)}
        lan = self.spaces["lan"]
        lan.ip("link add br0 type bridge", "link set br0 up")
        lan.ip(f"addr add {API_ADDRESS}/24 dev br0", "addr add fd77::254/64 dev br0 nodad")
        for number, name in ((1, "m1"), (2, "m2"), (9, "outside")):
            self._plug(lan, "br0", name, f"192.168.77.{number}/24", f"fd77::{number}/64")
        for number, name in ((1, "m1"), (2, "m2")):
            self._make_node(number, name, all_local=all_local)
        for name, on in PODS.items():
            number = int(on[1:])
            last = 2 + [pod for pod in PODS if PODS[pod] == on].index(name)
            self._plug(self.spaces[on], "pods0", name, f"10.1.{number}.{last}/24", f"fd01:{number}::{last}/64")
            self.spaces[name].ip(f"route add default via 10.1.{number}.1", f"route add ::/0 via fd01:{number}::1")
        outside = [f"route add {network} via 192.168.77.1" for network in SERVED["IPv4"]]
        self.spaces["outside"].ip(*outside, *(f"route add {network} via fd77::1" for network in SERVED["IPv6"]))

    def _plug(self, at: Namespace, bridge: str, name: str, v4: str, v6: str) -> None:
        space = self.spaces[name]
        join(at, f"to-{name}", space, "eth0")
        # As the CNI bridge has it: with br_netfilter, what a pod sends to itself is bridged back to its port.
        at.ip(f"link set to-{name} master {bridge}", f"link set to-{name} type bridge_slave hairpin on")
        space.ip(f"addr add {v4} dev eth0", f"addr add {v6} dev eth0 nodad")

    def _make_node(self, number: int, name: str, *, all_local: bool) -> None:
        space, other = self.spaces[name], 3 - number
        space.write("/proc/sys/net/ipv4/ip_forward", "1")
        space.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        space.ip(
            "link add pods0 type bridge",
            "link set pods0 up",
            f"addr add 10.1.{number}.1/24 dev pods0",
            f"addr add fd01:{number}::1/64 dev pods0 nodad",
            f"route add 10.1.{other}.0/24 via 192.168.77.{other}",
            f"route add fd01:{other}::/64 via fd77::{other}",
            f"route add default via {API_ADDRESS}",
            "route add ::/0 via fd77::254",
        )
        if all_local:
            space.ip(*(f"route add local {network} dev lo" for network in SERVED["IPv4"]))
            # A program binds a v6 address only when an interface has it.
            space.ip(*(f"addr add fd96::{number:x}/128 dev lo nodad" for number in range(16, 32)))

    @staticmethod
    def address(name: str, family: str = "IPv4") -> str:
        """Of a pod, a node or `outside`."""
        if name in PODS:
            number = int(PODS[name][1:])
            last = 2 + [pod for pod in PODS if PODS[pod] == PODS[name]].index(name)
            return f"10.1.{number}.{last}" if family == "IPv4" else f"fd01:{number}::{last}"
        number = {"m1": 1, "m2": 2, "outside": 9}[name]
        return f"192.168.77.{number}" if family == "IPv4" else f"fd77::{number}"

    async def start_pods(self) -> None:
        """Pods answer from now on."""
        loop = asyncio.get_running_loop()
        for name in ANSWERING:
            listener = self.spaces[name].socket(socket.AF_INET6, socket.SOCK_STREAM)
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", TCP_PORT))
            listener.listen(256)
            self._servers.append(await asyncio.start_server(_answering(name), sock=listener))
            for family in ("IPv4", "IPv6"):
                address = self.address(name, family)
                datagrams = self.spaces[name].socket(family_of(address), socket.SOCK_DGRAM)
                datagrams.bind((address, UDP_PORT))
                transport, _ = await loop.create_datagram_endpoint(lambda name=name: _Datagrams(name), sock=datagrams)  # type: ignore[misc]
                self._servers.append(transport)

    def close(self) -> None:
        for server in self._servers:
            server.close()
        for space in self.spaces.values():
            space.close()

    # Clients

    async def open(
        self, source: str, address: str, port: int, timeout_s: float = 10
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A TCP connection from a place. Raises ConnectionError when refused, TimeoutError when nobody answers."""
        found = self.spaces[source].socket(family_of(address), socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.get_running_loop().sock_connect(found, (address, port))
                return await asyncio.open_connection(sock=found)
        except BaseException:
            found.close()
            raise

    async def ask(self, source: str, address: str, port: int = 80, timeout_s: float = 5) -> str:
        """What a fresh connection is told: "a from 10.1.1.3". Raises as `open` does."""
        reader, writer = await self.open(source, address, port, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                line = (await reader.readline()).decode().strip()
            if not line:
                raise ConnectionResetError("ended without a word")
            return line
        finally:
            writer.transport.abort()

    async def reached(self, source: str, address: str, port: int = 80, count: int = 1) -> Counter[str]:
        """Which pods so many connections reached; "refused" for those that were."""
        found: Counter[str] = Counter()
        for _ in range(count):
            try:
                found[(await self.ask(source, address, port)).split()[0]] += 1
            except ConnectionError:
                found["refused"] += 1
        return found

    async def until_reached(self, names: set[str], source: str, address: str, port: int = 80) -> None:
        """Returns once connections reach each of `names` and nobody else."""
        deadline = time.monotonic() + 60
        while True:
            with suppress(TimeoutError, OSError):
                if set(await self.reached(source, address, port, 10 * len(names))) == names:
                    return
            assert time.monotonic() < deadline, f"{address}:{port} does not reach {names} from {source}"
            await asyncio.sleep(0.05)

    @contextmanager
    def datagrams(self, source: str, address: str, port: int) -> Iterator[socket.socket]:
        """A connected UDP socket."""
        with self.spaces[source].socket(family_of(address), socket.SOCK_DGRAM) as found:
            found.connect((address, port))
            yield found

    async def exchange(self, found: socket.socket, timeout_s: float = 5) -> str:
        """One question and its answer. Raises ConnectionError when refused, TimeoutError when none comes."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            await loop.sock_sendall(found, b"?")
            return (await loop.sock_recv(found, 1000)).decode()


def _answering(name: str) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            peer = writer.get_extra_info("peername")[0].removeprefix("::ffff:")
            writer.write(f"{name} from {peer}\n".encode())
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    return serve


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, _data: bytes, address: Any) -> None:
        self._transport.sendto(f"{self._name} from {address[0]}".encode(), address)


class ProxyProcess:
    """`raykube kube-proxy` on a node."""

    def __init__(self, network: Network, api: ApiTwin, name: str, mode: str, log: Path, *flags: str) -> None:
        self._space = network.spaces[name]
        files = pki.tls("system:kube-proxy", server=True)
        self._command = [
            sys.executable, "-m", "raykube", "kube-proxy", f"--proxy-mode={mode}", f"--hostname-override={name}",
            f"--api-servers={api.address}", f"--tls-cert-file={files.cert_file}",
            f"--tls-private-key-file={files.key_file}", f"--client-ca-file={files.ca_file}",
            "--cluster-cidr=10.1.0.0/16,fd01::/16", "--connect-timeout=500ms", "-v=4", *flags,
        ]  # fmt: skip
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns once the rules are in place."""
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - returns after a vfork
                self._space.command(self._command), pass_fds=[self._space.fd], stdout=output, stderr=output
            )
        deadline = time.monotonic() + 120  # many start at once on a busy machine
        while "200" not in await self.get(10256, "/healthz"):
            assert self._process.poll() is None, f"kube-proxy ended: {self._log.read_text()}"
            assert time.monotonic() < deadline, f"kube-proxy does not become healthy: {self._log.read_text()}"
            await asyncio.sleep(0.05)

    async def get(self, port: int, path: str, host: str = "127.0.0.1") -> str:
        """An HTTP answer with its status line and headers, as text; "" when nobody listens."""
        found = self._space.socket(socket.AF_INET, socket.SOCK_STREAM)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(found, (host, port))
            await loop.sock_sendall(found, f"GET {path} HTTP/1.0\r\n\r\n".encode())
            text = b""
            while part := await loop.sock_recv(found, 65536):
                text += part
            return text.decode()
        except OSError:
            return ""
        finally:
            found.close()

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator stops it."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    @property
    def log(self) -> str:
        return self._log.read_text()


class Cluster:
    """The network, the API, and a kube-proxy on each node."""

    def __init__(self, network: Network, api: ApiTwin, mode: str, folder: Path) -> None:
        self.network = network
        self.api = api
        self.mode = mode
        self.proxies: dict[str, ProxyProcess] = {}
        self._folder = folder

    async def start(self, *flags: str, on: tuple[str, ...] = ("m1", "m2")) -> None:
        """kube-proxies with more flags."""
        for name in on:
            self.proxies[name] = ProxyProcess(
                self.network, self.api, name, self.mode, self._folder / f"{name}.log", *flags
            )
        await asyncio.gather(*(self.proxies[name].start() for name in on))

    def nft(self, name: str, *arguments: str) -> str:
        """The output of nft on a node."""
        return self.network.spaces[name].run("nft", *arguments)


@asynccontextmanager
async def cluster(mode: str, folder: Path) -> AsyncIterator[Cluster]:
    if mode == "nftables":
        require_program("nft")
    network = Network(all_local=mode == "userspace")
    api = ApiTwin()
    found = Cluster(network, api, mode, folder)
    try:
        await network.start_pods()
        with network.spaces["lan"].entered():
            await api.start(host=API_ADDRESS)
        for name in ("m1", "m2"):
            machine = node(name, Network.address(name))
            machine["status"]["addresses"].append({"type": "InternalIP", "address": Network.address(name, "IPv6")})
            machine["metadata"]["labels"] = {"topology.kubernetes.io/zone": f"zone-{name}"}
            api.put(machine)
        yield found
        for proxy in found.proxies.values():
            assert "was refused" not in proxy.log, proxy.log  # a refusal is healed, but means a fault of ours
    finally:
        for proxy in found.proxies.values():
            proxy.kill()
        await api.stop()
        network.close()
