"""Bodies that no client sends, into every method of a member: it answers, goes on, and the members stay equal.

Half are random bytes, half are valid messages with bytes changed, cut out, doubled or put in.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from raykube.pb import batch_pb2, etcd_pb2
from tests.kit.etcd import SERVICES, Refusal, Wire
from tests.kv.etcd_requests import Requests
from tests.kv.group import Group, running_group

pytestmark = pytest.mark.integration
ROUNDS = 150

UNARY = [
    (service.name, method.name)
    for service in etcd_pb2.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not (method.client_streaming or method.server_streaming)
    # These are meant to change who the members are, or who leads: their bodies are drawn apart.
    and (service.name, method.name) not in {("Cluster", "MemberAdd"), ("Cluster", "MemberRemove")}
]
STREAMING = [("Watch", "Watch"), ("Lease", "LeaseKeepAlive"), ("Batch", "Stream")]
# An error of the client's making is never one of these.
OWN_FAULT = {"INTERNAL", "UNKNOWN", "DATA_LOSS"}


class Bodies:
    """Draws bodies for any method."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._requests = Requests(seed)

    def draw(self, method: str) -> bytes:
        if self._random.randrange(2):
            return self._random.randbytes(self._random.choice((0, 1, 2, 3, 8, 30, 200)))
        return self._mutated(self._valid(method).SerializeToString())

    def _valid(self, method: str) -> Any:
        if method == "Watch":
            return etcd_pb2.WatchRequest(create_request=self._requests.watch())
        if method == "Stream":
            puts = [self._requests.put() for _ in range(self._random.randrange(4))]
            return batch_pb2.BatchRequest(
                id=self._random.randrange(9),
                writes=[batch_pb2.Write(key=put.key, value=put.value, expected_revision=put.lease) for put in puts],
            )
        makers = {
            "Range": self._requests.range,
            "Put": self._requests.put,
            "DeleteRange": self._requests.delete,
            "Txn": self._requests.txn,
        }
        maker = makers.get(method)
        if maker is not None:
            return maker()
        # Small numbers in the first fields are what the other requests are made of.
        return etcd_pb2.LeaseGrantRequest(TTL=self._random.choice((5, 60, 1 << 40)), ID=self._random.randrange(20))

    def _mutated(self, body: bytes) -> bytes:
        data = bytearray(body)
        draw = self._random
        for _ in range(draw.randrange(4)):
            place = draw.randrange(len(data) + 1)
            match draw.randrange(4):
                case 0:
                    data[place:place] = draw.randbytes(draw.randrange(1, 5))
                case 1:
                    del data[place : place + draw.randrange(1, 5)]
                case 2:
                    data[place:place] = data[draw.randrange(len(data) + 1) :][:100]
                case _ if place < len(data):
                    data[place] ^= 1 << draw.randrange(8)
        return bytes(data)


def parses(service: str, method: str, body: bytes) -> bool:
    """Whether the body is a message of what the method takes."""
    try:
        message_factory.GetMessageClass(SERVICES[service].methods_by_name[method].input_type).FromString(body)
    except DecodeError:
        return False
    return True


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    async with running_group(tmp_path, 3) as group:
        yield group


async def check_alive(group: Group, wire: Wire) -> None:
    """Asserts that all members still take part, and hold the same."""
    answer = await wire.call("KV", "Put", etcd_pb2.PutRequest(key=b"alive"))
    assert not isinstance(answer, Refusal), answer
    for name, service in group.services.items():
        assert service.member is not None
        assert not service.member.failed.done(), name
    await group.agree()


@pytest.mark.parametrize("seed", range(3))
async def test_unary_bodies(group: Group, seed: int) -> None:
    bodies, draw = Bodies(seed), Random(seed)
    wires = [Wire(endpoint) for endpoint in group.endpoints]
    try:
        for _ in range(ROUNDS):
            # A few at a time, so that they meet in one write.
            calls = [(*draw.choice(UNARY),) for _ in range(8)]
            asked = [(service, method, bodies.draw(method)) for service, method in calls]
            answers = await asyncio.gather(*(draw.choice(wires).call(*call) for call in asked))
            for call, answer in zip(asked, answers, strict=True):
                if isinstance(answer, Refusal) and answer.code in OWN_FAULT:
                    assert not parses(*call), (call, answer)
        await check_alive(group, wires[0])
    finally:
        for wire in wires:
            await wire.close()


@pytest.mark.parametrize("seed", range(3))
async def test_streamed_bodies(group: Group, seed: int) -> None:
    bodies, draw = Bodies(seed), Random(seed)
    wires = [Wire(endpoint) for endpoint in group.endpoints]
    try:
        for _ in range(40):
            service, method = draw.choice(STREAMING)
            stream = draw.choice(wires).stream(service, method)
            sent = []
            try:
                for _ in range(10):
                    sent.append(bodies.draw(method))
                    await stream.write(sent[-1])
                await stream.done_writing()
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the stream ended at a body before
            code = await _end(stream, has_end=method != "Watch")
            if code.name in OWN_FAULT:
                assert not all(parses(service, method, body) for body in sent), (sent, await stream.details())
        await check_alive(group, wires[0])
    finally:
        for wire in wires:
            await wire.close()


async def _end(stream: Any, has_end: bool) -> grpc.StatusCode:
    """Reads what comes and returns how the call ended; a call that would go on is cancelled after a while."""
    try:
        async with asyncio.timeout(20 if has_end else 0.1):
            async for answer in stream:
                assert not getattr(answer, "error", "").startswith("INTERNAL"), answer
    except TimeoutError:
        assert not has_end, "the call does not end"
        stream.cancel()
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        pass
    code: grpc.StatusCode = await stream.code()
    return code
