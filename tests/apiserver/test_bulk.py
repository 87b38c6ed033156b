"""The gRPC API through raykube's own client, against a real store."""

import asyncio
from collections import Counter
from typing import Any

import orjson
import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core.planning import Operation, Planner
from raykube.client import operations
from raykube.client.api import ApiClient
from raykube.client.kv import KvClient
from raykube.pb import api_pb2, batch_pb2
from tests.apiserver.test_rest import call
from tests.kit.apiservers import Apiservers
from tests.kit.waiting import until

PODS = builtin("v1", "Pod")
MAPS = builtin("v1", "ConfigMap")
NAMESPACES = builtin("v1", "Namespace")


def config_map(name: str, **data: str) -> dict:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "default"}, "data": data}


def pod(name: str, **spec: object) -> dict:
    container = {"name": "c", "image": "none", "command": ["true"]}
    metadata = {"name": name, "namespace": "default"}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": [container], **spec}}


async def make_default_account(api: ApiClient) -> None:
    metadata = {"name": "default", "namespace": "default"}
    await api.create({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": metadata})


async def test_a_batch_answers_for_each_operation_by_itself(api) -> None:
    made = await api.create(config_map("there", x="1"))
    results = await api.write(
        [
            operations.create(config_map("new", x="1")),
            operations.create(config_map("there", x="1")),
            operations.create(config_map("Bad_Name")),
            operations.update(config_map("missing")),
            operations.update(made | {"data": {"x": "2"}}),
            operations.update(made | {"data": {"x": "3"}}),
            operations.patch(MAPS, "default", "there", {"data": {"y": "1"}}, api_pb2.MERGE),
            operations.delete(MAPS, "default", "missing"),
            operations.create(config_map("elsewhere") | {"metadata": {"name": "m", "namespace": "none"}}),
            operations.delete(NAMESPACES, "", "default"),
        ]
    )
    codes = [result.code for result in results]
    # Two updates that insist on one revision: exactly one of them wins.
    assert sorted(codes[4:6]) == [200, 409]
    assert codes[:4] + codes[6:] == [201, 409, 422, 404, 200, 404, 404, 403]
    assert orjson.loads(results[1].body)["message"] == 'configmaps "there" already exists'
    after = await api.get(MAPS, "default", "there")
    assert (after["data"]["y"], after["data"]["x"] in ("2", "3")) == ("1", True)


async def test_patches_without_a_revision_are_never_lost(api) -> None:
    await api.create(config_map("a"))
    patches = [
        operations.patch(MAPS, "default", "a", {"data": {f"k{index}": "1"}}, api_pb2.MERGE) for index in range(20)
    ]
    results = await api.write(patches)
    assert {result.code for result in results} == {200}
    assert len({result.resource_version for result in results}) == 20
    assert len((await api.get(MAPS, "default", "a"))["data"]) == 20


async def test_pods_are_created_bound_and_reported_in_bulk(api) -> None:
    await make_default_account(api)
    results = await api.write([operations.create(pod(f"p{index}")) for index in range(50)])
    assert Counter(result.code for result in results) == {201: 50}
    binds = [
        operations.bind("default", f"p{index}", "n1", resource_version=results[index].resource_version)
        for index in range(50)
    ]
    bound = await api.write(binds)
    assert Counter(result.code for result in bound) == {201: 50}
    again = await api.write([operations.bind("default", "p0", "n2")])
    assert again[0].code == 409
    assert 'pod p0 is already assigned to node "n1"' in orjson.loads(again[0].body)["message"]
    stale = await api.write([operations.bind("default", "p1", "n2", resource_version=results[1].resource_version)])
    assert stale[0].code == 409
    pods, revision = await api.list(PODS, "default", field_selector="spec.nodeName=n1")
    assert len(pods) == 50 and revision >= bound[-1].resource_version
    conditions = pods[0]["status"]["conditions"]
    assert [(each["type"], each["status"]) for each in conditions] == [("PodScheduled", "True")]
    for each in pods:
        each["spec"]["nodeName"] = "elsewhere"
        each["status"]["phase"] = "Running"
    assert {result.code for result in await api.write([operations.update(each, "status") for each in pods])} == {200}
    after = await api.get(PODS, "default", "p0")
    assert (after["spec"]["nodeName"], after["status"]["phase"]) == ("n1", "Running")


async def test_a_bound_pod_is_deleted_with_grace_then_for_good(api) -> None:
    await make_default_account(api)
    await api.create(pod("p"))
    await api.write([operations.bind("default", "p", "n1")])
    marked = await api.delete(PODS, "default", "p")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
    shorter = await api.delete(PODS, "default", "p", grace_period_s=5)
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] <= marked["metadata"]["deletionTimestamp"]
    await api.delete(PODS, "default", "p", grace_period_s=0)
    with pytest.raises(ApiError) as missing:
        await api.get(PODS, "default", "p")
    assert missing.value.code == 404
    await api.create(pod("q"))
    await api.delete(PODS, "default", "q")  # nobody runs it: gone at once
    with pytest.raises(ApiError):
        await api.get(PODS, "default", "q")


async def test_admission_of_pods(api) -> None:
    (refused,) = await api.write([operations.create(pod("p", serviceAccountName="nobody"))])
    assert refused.code == 403
    assert orjson.loads(refused.body)["message"] == (
        'pods "p" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found'
    )
    creating = asyncio.create_task(api.create(pod("p", priorityClassName="system-node-critical")))
    await make_default_account(api)  # a pod waits a moment for its namespace's default account
    made = await creating
    spec = made["spec"]
    assert (spec["priority"], spec["serviceAccountName"]) == (2_000_001_000, "default")
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    assert [each["tolerationSeconds"] for each in spec["tolerations"]] == [300, 300]
    assert made["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    (refused,) = await api.write([operations.create(pod("x", priorityClassName="none"))])
    assert (refused.code, "no PriorityClass with name none was found" in refused.body.decode()) == (403, True)


async def test_finalizers_and_namespaces(api) -> None:
    made = await api.create(
        config_map("f") | {"metadata": {"name": "f", "namespace": "default", "finalizers": ["a.b/c"]}}
    )
    await api.delete(MAPS, "default", "f")
    marked = await api.get(MAPS, "default", "f")
    assert marked["metadata"]["deletionTimestamp"] and marked["metadata"]["uid"] == made["metadata"]["uid"]
    marked["metadata"]["finalizers"] = []
    await api.update(marked)
    with pytest.raises(ApiError):
        await api.get(MAPS, "default", "f")
    namespace = await api.create({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "n"}})
    assert namespace["spec"]["finalizers"] == ["kubernetes"]
    dying = await api.delete(NAMESPACES, "", "n")
    assert dying["status"]["phase"] == "Terminating"
    (refused,) = await api.write([operations.create(config_map("m") | {"metadata": {"name": "m", "namespace": "n"}})])
    body = orjson.loads(refused.body)
    assert (refused.code, body["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    dying["spec"]["finalizers"] = []
    await api.write_one(operations.update(dying, "finalize"))
    with pytest.raises(ApiError):
        await api.get(NAMESPACES, "", "n")


@pytest.mark.parametrize("asked", [{"field_selector": "spec.nodeName=n1"}, {"nodes": ["n0", "n1"]}])
async def test_watch_with_initial_state_and_fields(api, asked) -> None:
    await make_default_account(api)
    await api.create(pod("a"))
    seen: list[tuple[str, str]] = []

    async def follow() -> None:
        async for batch in api.watch(PODS, "default", **asked, send_initial_events=True):
            seen.extend((event.type, (event.object or {}).get("metadata", {}).get("name", "")) for event in batch)

    task = asyncio.create_task(follow())
    await until(lambda: seen == [("BOOKMARK", "")])
    await api.write([operations.bind("default", "a", "n1")])
    await until(lambda: seen[1:] == [("ADDED", "a")])
    await api.delete(PODS, "default", "a", grace_period_s=0)
    await until(lambda: seen[2:] == [("DELETED", "a")])
    task.cancel()


async def test_only_pods_are_watched_by_nodes(api) -> None:
    with pytest.raises(ApiError, match="nodes cannot be selected by nodes"):
        await anext(api.watch(builtin("v1", "Node"), nodes=["n1"]))


async def test_who_may_write_in_bulk(servers) -> None:
    async with servers.client("alice", ()) as alice:
        (refused,) = await alice.write([operations.create(config_map("a"))])
        assert refused.code == 403
        assert 'User "alice" cannot create resource "configmaps"' in orjson.loads(refused.body)["message"]
        with pytest.raises(ApiError) as error:
            await alice.list(MAPS, "default")
        assert error.value.code == 403


async def test_who_may_only_change_makes_nothing_by_an_apply_in_bulk(admin, api, servers) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch", "list"]}]
    await call(admin, "POST", f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    group = "rbac.authorization.k8s.io"
    subjects = [{"kind": "User", "name": "eve", "apiGroup": group}]
    role = {"kind": "Role", "name": "r", "apiGroup": group}
    bound = {"metadata": {"name": "r"}, "subjects": subjects, "roleRef": role}
    assert (await call(admin, "POST", f"{rbac}/rolebindings", bound))[0] == 201
    await api.create(config_map("there"))
    async with servers.client("eve", ()) as eve:
        applies = [
            operations.patch(MAPS, "default", name, config_map(name, x="1"), api_pb2.APPLY, field_manager="eve")
            for name in ("there", "new")
        ]
        async with asyncio.timeout(20):
            while (results := await eve.write(applies))[0].code == 403:  # until the role is known
                pass
    assert [result.code for result in results] == [200, 403]
    assert 'cannot create resource "configmaps"' in orjson.loads(results[1].body)["message"]


async def test_live_apiservers_are_published_and_dead_ones_withdrawn(tmp_path) -> None:
    async with Apiservers(tmp_path, 2, apiserver_lease_duration=2) as servers, servers.client() as api:
        endpoints = builtin("v1", "Endpoints")

        async def published() -> set[str]:
            found = await api.get(endpoints, "default", "kubernetes")
            return {
                f"{address['ip']}:{subset['ports'][0]['port']}"
                for subset in found["subsets"]
                for address in subset["addresses"]
            }

        both = {servers.address("https", 0), servers.address("https", 1)}
        gone = servers.address("grpc", 1)
        assert await published() == both
        await until(lambda: len(api.addresses) == 2)
        await servers.instances[1].stop()
        await until(lambda: gone not in api.addresses)
        assert await published() == {servers.address("https", 0)}
        dead = {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {
                "name": "apiserver-dead",
                "namespace": "kube-system",
                "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"},
                "annotations": {"raykube.io/https-address": "127.0.0.9:1", "raykube.io/grpc-address": "127.0.0.9:2"},
            },
            "spec": {"holderIdentity": "x", "leaseDurationSeconds": 1, "renewTime": "2020-01-01T00:00:00.000000Z"},
        }
        await api.create(dead)
        leases = builtin("coordination.k8s.io/v1", "Lease")
        async with asyncio.timeout(10):
            while any(
                each["metadata"]["name"] == "apiserver-dead" for each in (await api.list(leases, "kube-system"))[0]
            ):
                pass
        assert await published() == {servers.address("https", 0)}


async def test_reads_of_another_apiserver_see_what_was_written(tmp_path) -> None:
    async with Apiservers(tmp_path, 2) as servers, servers.client(index=0) as one, servers.client(index=1) as two:
        for index in range(30):
            made = await one.create(config_map(f"m{index}"))
            assert await two.get(MAPS, "default", f"m{index}") == made
            changed = await two.update(made | {"data": {"x": "1"}})
            assert (await one.update(changed | {"data": {"x": "2"}}))["data"] == {"x": "2"}


class HeldBack:
    """Keeps what the store says from an apiserver's caches until it is released."""

    def __init__(self, servers: Apiservers, index: int) -> None:
        self._feed = servers.instances[index]._feed
        self._calls: list[tuple[Any, tuple[Any, ...]]] = []
        self._own = self._feed.apply, self._feed.advance
        for name, own in zip(("apply", "advance"), self._own, strict=True):
            setattr(self._feed, name, lambda *arguments, own=own: self._calls.append((own, arguments)))

    def release(self) -> None:
        self._feed.apply, self._feed.advance = self._own  # type: ignore[method-assign]  # as they were
        for function, arguments in self._calls:
            function(*arguments)


# raykube's client balances over all apiservers; an HTTPS session stays with one.
PATH = "/api/v1/namespaces/default/configmaps"


async def test_a_refusal_for_a_stale_cache_is_looked_at_again(tmp_path) -> None:
    async with Apiservers(tmp_path, 2) as servers, servers.session() as one, servers.session(index=1) as two:
        old = (await call(one, "POST", PATH, config_map("a")))[1]["metadata"]["uid"]
        await call(two, "GET", f"{PATH}/a")
        held = HeldBack(servers, 1)
        await call(one, "DELETE", f"{PATH}/a")
        new = (await call(one, "POST", PATH, config_map("a", x="1")))[1]["metadata"]["uid"]
        merge = {"Content_Type": "application/merge-patch+json"}
        patching = [
            asyncio.create_task(
                call(two, "PATCH", f"{PATH}/a", {"metadata": {"uid": uid}, "data": {uid: "2"}}, **merge)
            )
            for uid in (old, new)
        ]
        await asyncio.sleep(0.2)  # long enough for a wrong answer; a right one can't come before the release
        held.release()
        assert [(await task)[0] for task in patching] == [409, 200]
        assert (await call(one, "GET", f"{PATH}/a"))[1]["data"] == {"x": "1", new: "2"}


async def test_a_read_waits_for_caches_that_lag(tmp_path) -> None:
    async with Apiservers(tmp_path, 2) as servers, servers.session() as one, servers.session(index=1) as two:
        held = HeldBack(servers, 1)
        _, made = await call(one, "POST", PATH, config_map("a"))
        reading = asyncio.create_task(call(two, "GET", PATH))
        version = made["metadata"]["resourceVersion"]
        exact = asyncio.create_task(call(two, "GET", f"{PATH}/a?resourceVersion={version}"))
        assert (await call(two, "GET", f"{PATH}?resourceVersion=0"))[1]["items"] == []
        await asyncio.sleep(0.2)  # long enough for a wrong answer; a right one can't come before the release
        assert not reading.done() and not exact.done()
        held.release()
        assert (await reading)[1]["items"] == [made]
        assert await exact == (200, made)


async def test_garbage_in_the_store_hurts_nobody(tmp_path) -> None:
    async with Apiservers(tmp_path) as servers:
        kv = KvClient([servers.store_address])
        await kv.write([batch_pb2.Write(key=b"/registry/configmaps/default/bad", value=b"\xff", expected_revision=-1)])
        await servers.add()  # one meets it in its watch, one when it loads
        for index in (0, 1):
            async with servers.client(index=index) as api:
                await api.create(config_map(f"good{index}"))
                assert len((await api.list(MAPS, "default"))[0]) == index + 1
        await kv.close()


@pytest.mark.parametrize(
    ("verb", "subresource", "body"),
    [
        (api_pb2.DELETE, "", b"[]"),
        (api_pb2.DELETE, "", b'{"preconditions":"x"}'),
        (api_pb2.DELETE, "", b'{"dryRun":5}'),
        (api_pb2.BIND, "", b"7"),
        (api_pb2.CREATE, "eviction", b"[1]"),
        (api_pb2.CREATE, "eviction", b'{"deleteOptions":[1]}'),
    ],
)
async def test_a_body_of_another_shape_fails_alone(api, verb: Any, subresource: str, body: bytes) -> None:
    pods = api_pb2.Resource(version="v1", plural="pods")
    odd = api_pb2.Operation(
        verb=verb, resource=pods, namespace="default", name="web", subresource=subresource, node="n1", body=body
    )
    results = await api.write([odd, operations.create(config_map("good"))])
    assert [each.code for each in results] == [400, 201]


async def test_what_cannot_be_planned_fails_alone_in_a_request_of_all_or_none(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Planner.plan

    def stumble(self: Planner, op: Operation, *arguments: Any) -> Any:
        if '"bad"' in str(op.raw):
            raise KeyError("spec")
        return plan(self, op, *arguments)

    monkeypatch.setattr(Planner, "plan", stumble)
    results = await api.write_together([operations.create(config_map(name)) for name in ("good", "bad")])
    assert [result.code for result in results] == [409, 500]
    assert "another operation" in orjson.loads(results[0].body)["message"]
    results = await api.write_together([operations.create(config_map(name)) for name in ("good", "better")])
    assert [result.code for result in results] == [201, 201]
