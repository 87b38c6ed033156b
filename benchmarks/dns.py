"""Answers per second of one DNS server, over UDP, with as many queries under way as a window allows.

    python -m benchmarks.dns [--services 5000] [--endpoints 4] [--seconds 3] [--window 64] [--only NAME]

The server is a process of its own with a zone of so many Services, half of them headless; this process asks. CPU is
what the server used per answer. The peer is dnslib's own UDP server with the same records in a dictionary. Run
it alone on the machine, which needs two cores.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import os
import select
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from dnslib import QTYPE, RR, A, DNSQuestion, DNSRecord
from dnslib.server import BaseResolver, DNSServer
from rich.console import Console
from rich.table import Table

from raykube.dns.config import PRIVATE
from raykube.dns.core.cache import Cache
from raykube.dns.core.clients import Clients
from raykube.dns.core.metrics import Metrics
from raykube.dns.core.responder import Responder
from raykube.dns.core.zone import Zone
from raykube.dns.forward import Forwarder
from raykube.dns.server import Answers, Listeners
from raykube.rpc.clock import SystemClock

HOST = "127.0.0.1"
NAMESPACES = 50
PORTS = [{"name": "http", "port": 80, "protocol": "TCP"}]


def address(number: int, network: int) -> str:
    return f"10.{network + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def name_of(number: int) -> tuple[str, str]:
    return f"ns-{number % NAMESPACES}", f"web-{number}"


def fill(zone: Zone, services: int, endpoints: int) -> None:
    """Services with cluster IPs at even numbers, headless ones at odd."""
    for number in range(NAMESPACES):
        zone.set_namespace(f"ns-{number}", True)
    for number in range(services):
        namespace, name = name_of(number)
        ip = "None" if number % 2 else address(number, 96)
        metadata = {"name": name, "namespace": namespace}
        spec = {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": PORTS}
        zone.set_service((namespace, name), {"metadata": metadata, "spec": spec})
        points = [
            {"addresses": [address(number * endpoints + index, 128)], "conditions": {"ready": True}}
            for index in range(endpoints)
        ]
        found = {
            "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "endpoints": points,
            "ports": PORTS,
        }
        zone.set_slice((namespace, name), found)


def serve(pipe: Connection, services: int, endpoints: int) -> None:
    """The server's process: says its port, and ends with the pipe."""

    async def run() -> None:
        clock, metrics = SystemClock(), Metrics("cluster.local")
        zone = Zone("cluster.local", servers=["10.96.0.10"])
        fill(zone, services, endpoints)
        upstream = await start_upstream()
        forwarder = Forwarder(
            [f"{HOST}:{upstream}"], Path("/dev/null"), cache=Cache(10_000), cache_ttl_s=30, edns_size=1232,
            metrics=metrics, clock=clock,
        )  # fmt: skip
        answers = Answers(
            Responder(zone), forwarder, metrics, clock, Clients(PRIVATE), concurrent_max=1000, client_concurrent_max=100
        )
        listeners = Listeners(answers, metrics)
        listeners.bind([HOST], 0)
        await listeners.start()
        pipe.send(listeners.port)
        await asyncio.to_thread(pipe.poll, None)

    uvloop.run(run())


async def start_upstream() -> int:
    """A server of one answer, in the same process: it is asked once per name and cache time."""

    class Upstream(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, client: Any) -> None:
            reply = DNSRecord.parse(data).reply()
            reply.add_answer(RR(reply.q.qname, rdata=A("192.0.2.1"), ttl=300))
            self.transport.sendto(reply.pack(), client)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Upstream, local_addr=(HOST, 0))
    port: int = transport.get_extra_info("sockname")[1]
    return port


def serve_dnslib(pipe: Connection, services: int, _endpoints: int) -> None:
    """The peer's process: cluster IPs alone."""
    table = {
        f"{name}.{namespace}.svc.cluster.local.": address(number, 96)
        for number in range(0, services, 2)
        for namespace, name in [name_of(number)]
    }

    class Resolver(BaseResolver):  # type: ignore[misc]  # dnslib has no types
        def resolve(self, request: Any, _handler: Any) -> Any:
            reply = request.reply()
            reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(table[str(request.q.qname)]), ttl=30))
            return reply

    quiet = type("Quiet", (), {"__getattr__": lambda *_: lambda *_: None})()
    server = DNSServer(Resolver(), address=HOST, port=0, logger=quiet)
    server.start_thread()
    pipe.send(server.server.server_address[1])
    pipe.poll(None)


def query(name: str, kind: str) -> bytes:
    return bytes(DNSRecord(q=DNSQuestion(name, getattr(QTYPE, kind))).pack())


def cases(services: int) -> dict[str, list[bytes]]:
    """The queries of each row, to be asked round and round."""
    virtual = [".".join(reversed(name_of(number))) + ".svc.cluster.local" for number in range(0, services, 2)]
    headless = [".".join(reversed(name_of(number))) + ".svc.cluster.local" for number in range(1, services, 2)]
    reverse = [".".join(reversed(address(number, 96).split("."))) + ".in-addr.arpa" for number in range(0, services, 2)]
    searched = [f"www.example-{number}.com.ns-1.svc.cluster.local" for number in range(1000)]
    outside = [f"www.example-{number}.com" for number in range(1000)]
    found = {
        "A of a cluster IP": [query(name, "A") for name in virtual],
        "AAAA of it: none": [query(name, "AAAA") for name in virtual],
        "A of a headless Service": [query(name, "A") for name in headless],
        "SRV of a headless Service": [query(f"_http._tcp.{name}", "SRV") for name in headless],
        "PTR of a cluster IP": [query(name, "PTR") for name in reverse],
        "a search path's name: absent": [query(name, "A") for name in searched],
        "outside, remembered": [query(name, "A") for name in outside],
    }
    mixed = itertools.zip_longest(*(messages[:1000] for messages in found.values()))
    return found | {"all of these": [message for row in mixed for message in row if message is not None]}


def measure(port: int, messages: list[bytes], window: int, seconds: float) -> float:
    """Answers per second; a datagram that is lost is asked for again."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        found.connect((HOST, port))
        found.setblocking(False)
        source = itertools.cycle(messages)
        deadline = time.perf_counter() + seconds
        answered, under_way, number = 0, 0, 0
        while time.perf_counter() < deadline:
            while under_way < window:
                number = number + 1 & 0xFFFF
                found.send(number.to_bytes(2, "big") + next(source)[2:])
                under_way += 1
            if not select.select([found], [], [], 0.2)[0]:
                under_way = 0
                continue
            try:
                while True:
                    found.recv(4096)
                    answered += 1
                    under_way -= 1
            except BlockingIOError:
                pass
        return answered / seconds


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def bench(table: Table, title: str, target: Any, chosen: dict[str, list[bytes]], options: argparse.Namespace) -> None:
    """Rows of one server."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, options.services, options.endpoints), daemon=True)
    process.start()
    try:
        port = ours.recv()
        assert process.pid is not None
        for name, messages in chosen.items():
            measure(port, messages, options.window, min(1.0, options.seconds))  # names made, answers remembered
            before = cpu_s(process.pid)
            rate = measure(port, messages, options.window, options.seconds)
            used = cpu_s(process.pid) - before
            table.add_row(title, name, f"{rate:,.0f}", f"{used / max(rate * options.seconds, 1) * 1e6:.1f}")
    finally:
        process.terminate()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--services", type=int, default=5000)
    parser.add_argument("--endpoints", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    options = parser.parse_args()
    chosen = {name: messages for name, messages in cases(options.services).items() if options.only in name}
    table = Table(title=f"DNS: {options.services:,} Services, {options.endpoints} endpoints each")
    for heading in ("server", "query", "answers/s", "µs of CPU per answer"):
        table.add_column(heading, justify="left" if heading in ("server", "query") else "right")
    bench(table, "raykube", serve, chosen, options)
    peer = {name: messages for name, messages in chosen.items() if name == "A of a cluster IP"}
    if peer:
        bench(table, "dnslib", serve_dnslib, peer, options)
    Console().print(table)


if __name__ == "__main__":
    main()
