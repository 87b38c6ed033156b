"""gRPC's health protocol, asked by grpcio: whether a member serves."""

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc
import pytest

from raykube.pb.health_pb2 import HealthCheckRequest, HealthCheckResponse
from tests.kit.etcd import real_etcd
from tests.kv.group import running_group

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


class Health:
    """A client of the service at one address."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        def method(open_method: Any, name: str) -> Any:
            return open_method(
                f"/grpc.health.v1.Health/{name}", HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
            )

        self._check = method(channel.unary_unary, "Check")
        self._watch = method(channel.unary_stream, "Watch")

    async def check(self, service: str = "") -> int:
        return int((await self._check(HealthCheckRequest(service=service), timeout=10)).status)

    def watch(self, service: str = "") -> Any:
        return self._watch(HealthCheckRequest(service=service), timeout=20)


def at(port: int) -> Any:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


async def code_of(call: Awaitable[object]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details()


async def test_a_member_serves_until_it_stops(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group, at(group.ports["m1"]) as channel:
        health = Health(channel)
        assert await health.check() == SERVING
        watch = health.watch()
        assert (await watch.read()).status == SERVING
        assert await code_of(health.check("KV")) == (grpc.StatusCode.NOT_FOUND, "unknown service")
        assert (await health.watch("KV").read()).status == HealthCheckResponse.SERVICE_UNKNOWN
        await group.stop("m1")
        assert (await watch.read()).status == NOT_SERVING
        assert (await code_of(watch.read()))[0] is grpc.StatusCode.UNAVAILABLE


async def test_a_member_that_ended_by_itself_does_not_serve(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group, at(group.ports["m1"]) as channel:
        health = Health(channel)
        watch = health.watch()
        assert (await watch.read()).status == SERVING
        member = group.services["m1"].member
        assert member is not None
        member.fail(RuntimeError("by the test"))
        assert (await watch.read()).status == NOT_SERVING
        assert await health.check() == NOT_SERVING


async def test_a_member_serves_from_when_it_knew_a_leader_and_while_that_is_lost(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        for name in group.names:
            await group.stop(name)
        await group.start("m1")
        async with at(group.ports["m1"]) as channel:
            health = Health(channel)
            watch = health.watch()
            assert (await watch.read()).status == NOT_SERVING
            await group.start("m2")
            assert (await watch.read()).status == SERVING
            await group.stop("m2")
            assert await health.check() == SERVING


async def test_a_learner_serves(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        await group.add("m2", learner=True)
        await group.start("m2")
        await group.started("m2")
        await group.agree()
        async with at(group.ports["m2"]) as channel:
            assert await Health(channel).check() == SERVING


@pytest.mark.integration
async def test_etcd_answers_the_same(tmp_path: Path) -> None:
    async with (
        real_etcd(tmp_path) as address,
        running_group(tmp_path, 1) as group,
        grpc.aio.insecure_channel(address) as theirs,
        at(group.ports["m1"]) as ours,
    ):
        etcd, mine = Health(theirs), Health(ours)
        assert await mine.check() == await etcd.check()
        for service in ("KV", "etcdserverpb.KV"):
            assert await code_of(mine.check(service)) == await code_of(etcd.check(service))
        for service in ("", "KV"):
            assert await mine.watch(service).read() == await etcd.watch(service).read()
