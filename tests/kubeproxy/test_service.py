"""The whole kube-proxy: flags in, traffic out, with the apiserver's gRPC API at the other end."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from aiohttp import ClientSession

from raykube.cluster.plan import COMPONENTS
from raykube.kubeproxy.config import Config
from raykube.kubeproxy.service import Service
from tests.kit import pki
from tests.kit.tcp import connect, echo, eventually, greeting
from tests.kubeproxy.api_twin import ApiTwin
from tests.kubeproxy.objects import node
from tests.kubeproxy.world import free_port, serving, slices_of

COUNT = "kubeproxy_sync_proxy_rules_duration_seconds_count"


@asynccontextmanager
async def twin() -> AsyncIterator[ApiTwin]:
    found = await ApiTwin().start()
    try:
        yield found
    finally:
        await found.stop()


@asynccontextmanager
async def proxy(api: ApiTwin, name: str = "m1", **flags: Any) -> AsyncIterator[Service]:
    files = pki.tls("system:kube-proxy", server=True)
    config = Config(
        **{
            "hostname_override": name,
            "api_servers": [api.address],
            "tls_cert_file": files.cert_file,
            "tls_private_key_file": files.key_file,
            "client_ca_file": files.ca_file,
            "healthz_bind_address": "127.0.0.1:0",
            "proxy_mode": "userspace",  # tests change no rules of the host's
            "relay_port": 0,
            **flags,
        }
    )
    service = Service(config)
    await service.start()
    try:
        yield service
    finally:
        await service.stop()


async def reaches(address: str, name: str) -> None:
    """Returns once three connections in a row to `address` reach `name`."""
    async with asyncio.timeout(15):
        while [await greeting(address) for _ in range(3)] != [name] * 3:  # noqa: ASYNC110  # nothing to wait on: a probe
            await asyncio.sleep(0.02)


async def http(service: Service, path: str) -> tuple[int, str]:
    addresses: Any = service.status()["addresses"]
    async with ClientSession() as session, session.get(f"http://{addresses['healthz']}{path}") as answer:
        return answer.status, await answer.text()


async def test_services_are_served_as_the_cluster_says() -> None:
    async with twin() as api, echo("a") as a, echo("b") as b:
        port, nodeport = free_port("127.0.0.1"), free_port("127.0.0.2")
        ports = [{"port": port, "nodePort": nodeport, "protocol": "TCP"}]
        web = serving(port, type="NodePort", ports=ports)
        slice_a, slice_b = slices_of(a, b)
        api.put(node("m1", "127.0.0.2"), web, slice_a)
        async with proxy(api) as service:
            await eventually(lambda: service.healthy)
            assert await greeting(f"127.0.0.1:{port}") == "a"
            assert await greeting(f"127.0.0.2:{nodeport}") == "a"  # the node's own address, by default
            slice_b["metadata"]["annotations"] = {
                "endpoints.kubernetes.io/last-change-trigger-time": "2026-01-01T00:00:00Z"
            }
            api.put(slice_b)
            api.delete(slice_a)
            await eventually(lambda: service.status()["detail"] == "2 addresses served")
            await reaches(f"127.0.0.1:{port}", "b")
            assert [await greeting(f"127.0.0.1:{port}") for _ in range(5)] == ["b"] * 5
            status, text = await http(service, "/metrics")
            assert status == 200
            assert "kubeproxy_network_programming_duration_seconds_count 1" in text.splitlines()
            assert (await http(service, "/healthz"))[0] == 200
            assert (await http(service, "/proxyMode")) == (200, "userspace")
            api.delete(web)
            await eventually(lambda: service.status()["detail"] == "0 addresses served")
            with pytest.raises(ConnectionRefusedError):
                await connect(f"127.0.0.1:{port}")
            assert api.users == {"system:kube-proxy"}


async def test_a_burst_of_changes_is_gathered() -> None:
    async with twin() as api, echo("a") as a, echo("b") as b:
        port = free_port("127.0.0.1")
        (slice_a,), (slice_b,) = slices_of(a), slices_of(b)
        slice_b["metadata"]["name"] = slice_a["metadata"]["name"]
        api.put(node("m1", "127.0.0.2"), serving(port), slice_a)
        async with proxy(api, min_sync_period=0.5) as service:
            await eventually(lambda: service.healthy)

            async def syncs() -> int:
                _, text = await http(service, "/metrics")
                (line,) = [each for each in text.splitlines() if each.startswith(COUNT)]
                return int(line.split()[1])

            before = await syncs()
            for _ in range(20):
                api.put(slice_b)
                await asyncio.sleep(0.01)
                api.put(slice_a)
                await asyncio.sleep(0.01)
            api.put(slice_b)
            await reaches(f"127.0.0.1:{port}", "b")
            assert await syncs() - before < 12  # 41 changes


async def test_it_goes_on_without_an_apiserver() -> None:
    async with twin() as api, echo("a") as a:
        port = free_port("127.0.0.1")
        api.put(node("m1", "127.0.0.2"), serving(port), *slices_of(a))
        async with proxy(api) as service:
            await eventually(lambda: service.healthy)
            await api.stop()
            assert [await greeting(f"127.0.0.1:{port}") for _ in range(5)] == ["a"] * 5
            assert service.healthy


async def test_before_an_apiserver_answers_it_is_not_healthy() -> None:
    api = ApiTwin()
    api.address = f"127.0.0.1:{free_port('127.0.0.1')}"
    async with proxy(api) as service:
        assert not service.healthy
        assert (await http(service, "/healthz"))[0] == 503
        await api.start(int(api.address.rpartition(":")[2]))
        await eventually(lambda: service.healthy, timeout_s=20)
    await api.stop()


async def test_a_port_that_is_taken_becomes_an_event() -> None:
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    holder.listen()
    port = holder.getsockname()[1]
    async with twin() as api, echo("a") as a:
        api.put(node("m1", "127.0.0.2"), serving(port), *slices_of(a))
        async with proxy(api) as service:
            await eventually(lambda: sum(plural == "events" for plural, _ in api.written) == 2)
            start, event = (body for plural, body in api.written if plural == "events")
            assert (start["type"], start["reason"]) == ("Normal", "Starting")
            assert start["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "m1", "uid": "m1"}
            assert (event["type"], event["reason"]) == ("Warning", "FailedToBind")
            assert event["involvedObject"]["name"] == "web"
            assert f"node m1 cannot serve the cluster IP 127.0.0.1:{port}/TCP" in event["message"]
            assert "is in use" in event["message"]
            assert "1 cannot be bound" in str(service.status()["detail"])
            holder.close()
            await eventually(lambda: "1 cannot" not in str(service.status()["detail"]), timeout_s=10)
            assert await greeting(f"127.0.0.1:{port}") == "a"
            assert service.healthy


async def test_a_health_check_port_that_is_taken_becomes_an_event_and_is_served_when_it_is_free() -> None:
    """A load balancer would leave this node out for ever."""
    holder = socket.socket()
    holder.bind(("127.0.0.2", 0))
    holder.listen()
    check = holder.getsockname()[1]
    async with twin() as api, echo("a") as a:
        port = free_port("127.0.0.1")
        balanced = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": check}
        api.put(node("m1", "127.0.0.2"), serving(port, **balanced), *slices_of(a))
        async with proxy(api) as service:

            def told() -> list[dict[str, Any]]:
                reason = "FailedToStartServiceHealthcheck"
                return [body for plural, body in api.written if plural == "events" and body["reason"] == reason]

            await eventually(lambda: bool(told()))
            assert told()[0]["involvedObject"]["name"] == "web"
            assert f"node m1 cannot serve the health-check node port {check}" in told()[0]["message"]
            assert service.healthy
            holder.close()

            async def answered() -> int:
                with suppress(OSError):
                    async with ClientSession() as session, session.get(f"http://127.0.0.2:{check}/") as answer:
                        return answer.status
                return 0

            async with asyncio.timeout(10):
                while await answered() != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert len(told()) == 1


@pytest.mark.parametrize("sign", ["taint", "deletion"])
async def test_a_node_that_is_about_to_go_is_drained_by_load_balancers(sign: str) -> None:
    async with twin() as api:
        api.put(node("m1", "127.0.0.2"))
        async with proxy(api) as service:
            await eventually(lambda: service.healthy)
            assert (await http(service, "/healthz"))[0] == 200
            going = node("m1", "127.0.0.2")
            if sign == "taint":
                going["spec"] = {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]}
            else:
                going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            api.put(going)
            async with asyncio.timeout(10):
                while (answer := await http(service, "/healthz"))[0] != 503:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            assert '"nodeEligible": false' in answer[1]
            assert (await http(service, "/livez"))[0] == 200  # nothing is wrong with the proxy
            own_page = COMPONENTS["kube-proxy"].page.partition(":")[2]
            assert (await http(service, own_page))[0] == 200, "what the cluster's own status asks"
            api.put(node("m1", "127.0.0.2"))
            async with asyncio.timeout(10):
                while (await http(service, "/healthz"))[0] != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


async def test_two_hosts_find_each_other_through_their_nodes() -> None:
    """Both proxies run with --relay=always, so that one computer plays two."""
    async with twin() as api, echo("on one") as one, echo("on two") as two:
        port_one, port_two = free_port("127.0.0.1"), free_port("127.0.0.1")
        first, second = serving(port_one, name="web"), serving(port_two, name="db")
        (slice_one,), (slice_two,) = slices_of(one, node="m1"), slices_of(two, node="m2")
        slice_two["metadata"]["labels"]["kubernetes.io/service-name"] = "db"
        api.put(node("m1", "127.0.0.3"), node("m2", "127.0.0.4"), first, second, slice_one, slice_two)
        async with (
            proxy(api, "m1", relay="always", shared_host=True) as a,
            proxy(api, "m2", relay="always", shared_host=True) as b,
        ):
            await eventually(lambda: a.healthy and b.healthy)

            def announced(name: str) -> str:
                annotations = api.objects["nodes", "", name]["metadata"].get("annotations") or {}
                return str(annotations.get("raykube.io/kube-proxy-relay", ""))

            await eventually(
                lambda: announced("m1").startswith("127.0.0.3:") and announced("m2").startswith("127.0.0.4:")
            )
            # Both proxies accept on the shared address: some connections cross to the other machine's relay.
            for port, name in ((port_one, "on one"), (port_two, "on two")):
                await reaches(f"127.0.0.1:{port}", name)
            answers = [await greeting(f"127.0.0.1:{port_two}") for _ in range(20)]
            assert answers == ["on two"] * 20
            assert a.status()["addresses"]["relay"] == announced("m1")  # type: ignore[index]  # a JSON object


async def test_machines_of_one_computer_need_no_relay() -> None:
    async with twin() as api:
        api.put(node("m1", "127.0.0.2"), node("m2", "127.0.0.3"))
        async with proxy(api, shared_host=True) as service:
            await eventually(lambda: service.healthy)
            assert "relay" not in service.status()["addresses"]  # type: ignore[operator]  # a JSON object
        async with proxy(api) as service:
            await eventually(lambda: service.healthy)
            assert "relay" not in service.status()["addresses"]  # type: ignore[operator]  # a JSON object


async def test_stop_leaves_nothing_and_can_be_said_twice() -> None:
    async with twin() as api, echo("a") as a:
        port = free_port("127.0.0.1")
        api.put(node("m1", "127.0.0.2"), serving(port), *slices_of(a))
        async with proxy(api) as service:
            await eventually(lambda: service.healthy)
            reader, _ = await connect(f"127.0.0.1:{port}")
            await reader.readline()
            await service.stop()
            await service.wait()
            with pytest.raises(ConnectionRefusedError):
                await connect(f"127.0.0.1:{port}")
            with pytest.raises(ConnectionError):
                await reader.readexactly(1)


def test_bad_flags_are_one_line(tmp_path: Any) -> None:
    for flags, message in (
        ({}, "--api-servers: is required"),
        ({"api_servers": ["x"]}, "is not host:port"),
        ({"api_servers": ["a:1"], "relay": "always"}, "--relay=always needs"),
        ({"api_servers": ["a:1"], "tls_cert_file": tmp_path}, "go together"),
        ({"api_servers": ["a:1"], "nodeport_addresses": ["x"]}, "does not appear to be"),
        ({"api_servers": ["a:1"], "healthz_bind_address": "1.2.3.4:x"}, "is not host:port"),
    ):
        with pytest.raises(ValueError, match=message):
            Config(**flags)  # type: ignore[arg-type]  # on purpose


async def test_files_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="cannot read /nowhere/x"):
        absent = "/nowhere/x"
        flags: Any = {"tls_cert_file": absent, "tls_private_key_file": absent, "client_ca_file": absent}
        await Service(Config(api_servers=["127.0.0.1:1"], **flags)).start()


async def test_a_health_port_in_use() -> None:
    async with twin() as api, proxy(api) as first:
        taken: Any = first.status()["addresses"]
        with pytest.raises(OSError, match="is in use; find by whom"):
            async with proxy(api, healthz_bind_address=taken["healthz"]):
                pass
