"""Quotas and limit ranges through apiservers, against a real store."""

import asyncio
import ipaddress
import itertools
from collections import Counter
from typing import Any

import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver import charges, services
from raykube.apiserver.store import Store
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.pb import api_pb2
from tests.apiserver.test_bulk import make_default_account, pod
from tests.kit.apiservers import Apiservers

PODS = builtin("v1", "Pod")
QUOTAS = builtin("v1", "ResourceQuota")
SERVICES = builtin("v1", "Service")


def quota(name: str = "q", **hard: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"kind": "ResourceQuota", "apiVersion": "v1", "metadata": metadata, "spec": {"hard": hard}}


async def counted(api: ApiClient, name: str = "q", used: dict[str, str] | None = None, **hard: str) -> None:
    """A quota as it is once its controller has seen it."""
    made = await api.create(quota(name, **hard))
    status = {"hard": hard, "used": dict.fromkeys(hard, "0") | (used or {})}
    operation = operations.patch(QUOTAS, "default", name, {"status": status}, api_pb2.MERGE, subresource="status")
    (result,) = await api.write([operation])
    assert made and result.code == 200


async def used(api: ApiClient, name: str = "q") -> dict[str, str]:
    return dict((await api.get(QUOTAS, "default", name))["status"]["used"])


async def test_a_hundred_at_once_through_three_apiservers_never_pass_it(tmp_path: Any) -> None:
    async with Apiservers(tmp_path, count=3) as servers, servers.client() as api:
        await make_default_account(api)
        await counted(api, pods="37")
        clients = [servers.client(index=number) for number in range(3)]
        opened = [await client.__aenter__() for client in clients]
        for client in opened:
            await client.get(QUOTAS, "default", "q")
        turns = itertools.cycle(opened)

        async def create(number: int) -> int:
            (result,) = await next(turns).write([operations.create(pod(f"p{number}"))])
            if result.code != 201:
                message = orjson.loads(result.body)["message"]
                assert message.endswith("exceeded quota: q, requested: pods=1, used: pods=37, limited: pods=37"), (
                    message
                )
            return result.code

        codes = Counter(await asyncio.gather(*(create(number) for number in range(100))))
        assert codes == {201: 37, 403: 63}
        assert len((await api.list(PODS, "default"))[0]) == 37 and await used(api) == {"pods": "37"}
        for client in clients:
            await client.__aexit__(None, None, None)


async def test_a_refusal_holds_for_what_is_there_not_for_what_was_seen(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An apiserver that has not seen yet that a quota was raised through another one."""
    async with Apiservers(tmp_path, count=2) as servers, servers.client() as one, servers.client(index=1) as other:
        await make_default_account(one)
        await counted(one, pods="1")
        await other.write([operations.create(pod("first"))])
        seen = Store._apply
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(Store, "_apply", lambda *arguments: loop.call_later(0.3, seen, *arguments))
        hard = {"pods": "2"}
        for body, subresource in (({"spec": {"hard": hard}}, ""), ({"status": {"hard": hard}}, "status")):
            await one.write([operations.patch(QUOTAS, "default", "q", body, api_pb2.MERGE, subresource=subresource)])
        (result,) = await other.write([operations.create(pod("second"))])
        assert result.code == 201, result.body


async def test_a_bulk_is_one_charge(api: ApiClient) -> None:
    await make_default_account(api)
    await counted(api, pods="50")
    before = int((await api.get(QUOTAS, "default", "q"))["metadata"]["resourceVersion"])
    results = await api.write([operations.create(pod(f"p{number}")) for number in range(60)])
    assert Counter(result.code for result in results) == {201: 50, 403: 10}
    after = int((await api.get(QUOTAS, "default", "q"))["metadata"]["resourceVersion"])
    assert after - before == 51, "fifty pods, and the quota once"


async def test_a_large_bulk_is_a_few_charges(api: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charges, "TURN_BYTES_MAX", 20_000)
    await make_default_account(api)
    await counted(api, pods="150")
    results = await api.write([operations.create(pod(f"p{number}")) for number in range(200)])
    assert [result.code for result in results] == [201] * 150 + [403] * 50
    assert await used(api) == {"pods": "150"}


async def test_what_is_not_written_is_not_charged(api: ApiClient) -> None:
    await make_default_account(api)
    await counted(api, pods="5")
    bodies = [pod("a"), pod("b"), pod("a"), pod("Bad_Name"), pod("c")]
    results = await api.write([operations.create(body) for body in bodies])
    assert [result.code for result in results] == [201, 201, 409, 422, 201]
    assert await used(api) == {"pods": "3"}
    dry = operations.create(pod("d"))
    dry.dry_run = True
    (result,) = await api.write([dry])
    assert result.code == 201 and await used(api) == {"pods": "3"}


async def test_a_dry_run_is_refused_as_the_real_thing_would_be(api: ApiClient) -> None:
    await make_default_account(api)
    await counted(api, pods="0")
    dry = operations.create(pod("d"))
    dry.dry_run = True
    (result,) = await api.write([dry])
    assert result.code == 403 and b"exceeded quota: q" in result.body


async def test_a_count_that_was_begun_before_a_pod_does_not_win(api: ApiClient) -> None:
    """A new quota's controller counts, then a pod comes, then the controller writes what it counted."""
    await make_default_account(api)
    fresh = await api.create(quota(pods="1"))
    (result,) = await api.write([operations.create(pod("early"))])
    assert result.code == 201
    status = {"hard": {"pods": "1"}, "used": {"pods": "0"}}
    late = operations.patch(QUOTAS, "default", "q", {"status": status}, api_pb2.MERGE, subresource="status")
    late.resource_version = int(fresh["metadata"]["resourceVersion"])
    (result,) = await api.write([late])
    assert result.code == 409


async def test_services_are_charged_with_their_ports_and_give_back_what_a_refusal_took(api: ApiClient) -> None:
    await counted(api, services="3", **{"services.nodeports": "2"})

    def service(name: str, **spec: Any) -> dict[str, Any]:
        ports = [{"port": 80, "name": "a"}]
        metadata = {"name": name, "namespace": "default"}
        return {"kind": "Service", "apiVersion": "v1", "metadata": metadata, "spec": {"ports": ports, **spec}}

    made = await api.create(service("a", type="NodePort"))
    assert await used(api) == {"services": "1", "services.nodeports": "1"}
    wide = service(
        "b",
        type="NodePort",
        clusterIP=str(ipaddress.ip_address(int(ipaddress.ip_address(made["spec"]["clusterIP"])) ^ 1)),
    )
    wide["spec"]["ports"] = [{"port": number, "name": f"p{number}"} for number in range(1, 4)]
    with pytest.raises(
        ApiError, match=r"exceeded quota: q, requested: services.nodeports=3, used: services.nodeports=1"
    ):
        await api.create(wide)
    narrow = {**wide, "spec": {**wide["spec"], "type": "ClusterIP"}}
    await api.create(narrow)  # its address is free again
    patch = operations.patch(SERVICES, "default", "b", {"spec": {"type": "NodePort"}}, api_pb2.MERGE)
    (result,) = await api.write([patch])
    assert result.code == 403 and await used(api) == {"services": "2", "services.nodeports": "1"}


async def test_a_pod_that_grows_is_charged_for_what_it_adds(api: ApiClient) -> None:
    await make_default_account(api)
    await counted(api, **{"requests.cpu": "1"})
    body = pod("p")
    body["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "400m"}, "limits": {"cpu": "2"}}
    await api.create(body)

    async def resize(cpu: str) -> tuple[int, bytes]:
        containers = [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]
        patch = {"spec": {"containers": containers}}
        operation = operations.patch(PODS, "default", "p", patch, api_pb2.STRATEGIC, subresource="resize")
        (result,) = await api.write([operation])
        return result.code, result.body

    assert (await resize("900m"))[0] == 200 and await used(api) == {"requests.cpu": "900m"}
    code, answer = await resize("1100m")
    assert code == 403 and b"requested: requests.cpu=200m, used: requests.cpu=900m, limited: requests.cpu=1" in answer
    assert (await resize("100m"))[0] == 200 and await used(api) == {"requests.cpu": "900m"}, "the controller gives back"


async def test_limit_ranges_fill_and_refuse(api: ApiClient) -> None:
    await make_default_account(api)
    item = {"type": "Container", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "500m"}, "max": {"cpu": "2"}}
    metadata = {"name": "limits", "namespace": "default"}
    await api.create({"kind": "LimitRange", "apiVersion": "v1", "metadata": metadata, "spec": {"limits": [item]}})
    made = await api.create(pod("p"))
    assert made["spec"]["containers"][0]["resources"] == {"limits": {"cpu": "1"}, "requests": {"cpu": "500m"}}
    assert made["status"]["qosClass"] == "Burstable"
    large = pod("large")
    large["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "3"}}
    with pytest.raises(ApiError, match='"large" is forbidden: maximum cpu usage per Container is 2, but limit is 3'):
        await api.create(large)


async def test_defaults_of_limit_ranges_are_what_quotas_ask_for(api: ApiClient) -> None:
    await make_default_account(api)
    await counted(api, **{"requests.cpu": "1"})
    with pytest.raises(ApiError, match=r"failed quota: q: must specify requests.cpu for: c"):
        await api.create(pod("silent"))
    item = {"type": "Container", "defaultRequest": {"cpu": "600m"}}
    metadata = {"name": "limits", "namespace": "default"}
    await api.create({"kind": "LimitRange", "apiVersion": "v1", "metadata": metadata, "spec": {"limits": [item]}})
    await api.create(pod("silent"))
    with pytest.raises(ApiError, match=r"exceeded quota: q, requested: requests.cpu=600m, used: requests.cpu=600m"):
        await api.create(pod("more"))


@pytest.mark.parametrize(
    ("hard", "field", "message"),
    [
        ({"cups": "1"}, "spec.hard[cups]", "must be a standard resource for quota"),
        ({"pods": "1.5"}, "spec.hard[pods]", "must be an integer"),
        ({"requests.cpu": "-1"}, "spec.hard[requests.cpu]", "must be greater than or equal to 0"),
    ],
)
async def test_quotas_that_make_no_sense_are_refused(api: ApiClient, hard: Any, field: str, message: str) -> None:
    with pytest.raises(ApiError) as caught:
        await api.create(quota(**hard))
    assert caught.value.code == 422 and field in str(caught.value) and message in str(caught.value)


async def test_a_charged_service_whose_addresses_took_too_long_is_not_written(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be another's by then; what was charged for it is charged to nobody."""
    await make_default_account(api)
    await counted(api, services="1")
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "default"}}
    service["spec"] = {"ports": [{"port": 80}]}
    with monkeypatch.context() as patched:
        patched.setattr(services, "ORPHAN_AGE_S", 0.0)
        (result,) = await api.write([operations.create(service)])
    assert (result.code, b"took too long" in result.body) == (503, True)
    assert await used(api) == {"services": "0"}
    assert (await api.write([operations.create(service)]))[0].code == 201
    assert await used(api) == {"services": "1"}
