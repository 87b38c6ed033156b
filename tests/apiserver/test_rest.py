"""The REST API over real TLS, with a real store: what clients send and get, byte for byte where it matters."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import orjson
import pytest

from raykube.api.resources import builtin
from raykube.client import operations

MAPS = "/api/v1/namespaces/default/configmaps"
JSON = {"Content-Type": "application/json"}


def config_map(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": {"x": "1"}, **fields}


async def call(session: aiohttp.ClientSession, method: str, path: str, body: Any = None, **headers: str) -> Any:
    """(code, answer) of a request."""
    data = body if isinstance(body, bytes | str) else orjson.dumps(body) if body is not None else None
    given = {"Content-Type": "application/json"} if data is not None else {}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.request(method, path, data=data, headers=given | named) as response:
        text = await response.read()
        return response.status, json.loads(text) if "json" in response.content_type else text.decode()


async def becomes(code: int, session: aiohttp.ClientSession, path: str, **headers: str) -> None:
    """Asks until the answer has this code: authorization follows the store by a watch."""
    deadline = time.monotonic() + 5
    while (await call(session, "GET", path, **headers))[0] != code:
        assert time.monotonic() < deadline, f"{path} is not {code}"


async def test_an_object_from_creation_to_deletion(admin) -> None:
    code, made = await call(admin, "POST", MAPS, config_map())
    assert code == 201
    assert (made["kind"], made["apiVersion"], made["metadata"]["namespace"]) == ("ConfigMap", "v1", "default")
    assert made["metadata"]["uid"] and made["metadata"]["creationTimestamp"]
    assert await call(admin, "GET", f"{MAPS}/a") == (200, made)
    code, changed = await call(admin, "PUT", f"{MAPS}/a", made | {"data": {"x": "2"}})
    assert (code, changed["data"]) == (200, {"x": "2"})
    assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
    code, status = await call(admin, "PUT", f"{MAPS}/a", made)
    assert (code, status["reason"]) == (409, "Conflict")
    assert status["message"] == (
        'Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to '
        "the latest version and try again"
    )
    code, patched = await call(
        admin, "PATCH", f"{MAPS}/a", {"data": {"y": "3", "x": None}}, Content_Type="application/merge-patch+json"
    )
    assert (code, patched["data"]) == (200, {"y": "3"})
    code, status = await call(admin, "DELETE", f"{MAPS}/a")
    assert code == 200
    assert status["details"] == {"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}
    code, status = await call(admin, "GET", f"{MAPS}/a")
    assert (code, status["message"]) == (404, 'configmaps "a" not found')


async def test_a_write_that_changes_nothing_writes_nothing(admin) -> None:
    _, made = await call(admin, "POST", MAPS, config_map())
    assert await call(admin, "PUT", f"{MAPS}/a", made) == (200, made)
    _, same = await call(
        admin, "PATCH", f"{MAPS}/a", {"data": {"x": "1"}}, Content_Type="application/strategic-merge-patch+json"
    )
    assert same == made


BAD_REQUESTS = [
    ("POST", MAPS, b"{", 400, "BadRequest"),
    ("POST", MAPS, b"[]", 400, "BadRequest"),
    ("POST", MAPS, {"metadata": {"name": "a"}, "data": {"x": 1}}, 400, "BadRequest"),
    ("POST", MAPS, {"kind": "Secret", "metadata": {"name": "a"}}, 400, "BadRequest"),
    ("POST", MAPS, {"metadata": {"name": "a", "namespace": "other"}}, 400, "BadRequest"),
    ("POST", MAPS + "?fieldValidation=Strict", {"metadata": {"name": "a"}, "dta": {}}, 400, "BadRequest"),
    ("POST", MAPS + "?fieldValidation=Strict", b'{"metadata":{"name":"a","name":"b"}}', 400, "BadRequest"),
    ("POST", MAPS, {"metadata": {}}, 422, "Invalid"),
    ("POST", MAPS, {"metadata": {"name": "A_"}}, 422, "Invalid"),
    ("POST", MAPS + "?dryRun=Some", {"metadata": {"name": "a"}}, 422, "Invalid"),
    ("POST", MAPS, {"metadata": {"name": "a"}, "data": {"x": "y" * (3 << 20)}}, 413, "RequestEntityTooLarge"),
    ("PUT", MAPS + "/a", {"metadata": {"name": "b"}}, 400, "BadRequest"),
    ("PUT", MAPS + "/a", {"metadata": {"name": "a"}}, 404, "NotFound"),
    ("POST", "/api/v1/namespaces/none/configmaps", {"metadata": {"name": "a"}}, 404, "NotFound"),
    ("POST", "/api/v1/configmaps", {"metadata": {"name": "a"}}, 405, "MethodNotAllowed"),
    ("PUT", MAPS, {"metadata": {"name": "a"}}, 405, "MethodNotAllowed"),
    ("GET", "/api/v1/namespaces/default/foos", None, 404, "NotFound"),
    ("GET", "/apis/apps/v9/deployments", None, 404, "NotFound"),
    ("GET", MAPS + "?labelSelector=a==", None, 200, None),
    ("GET", MAPS + "?labelSelector=a%20in", None, 400, "BadRequest"),
    ("GET", MAPS + "?fieldSelector=data.x=1", None, 400, "BadRequest"),
    ("GET", MAPS + "?continue=abc", None, 400, "BadRequest"),
    ("GET", MAPS + "?resourceVersion=x", None, 400, "BadRequest"),
    ("GET", MAPS + "?resourceVersionMatch=Exact", None, 422, "Invalid"),
    ("GET", MAPS + "?sendInitialEvents=true", None, 422, "Invalid"),
    ("GET", MAPS + "?watch=1&sendInitialEvents=true", None, 422, "Invalid"),
    ("GET", MAPS + "?watch=maybe", None, 400, "BadRequest"),
    ("DELETE", MAPS + "/a?propagationPolicy=Sideways", None, 422, "Invalid"),
    ("POST", MAPS + "?fieldManager=" + "m" * 129, {"metadata": {"name": "a"}}, 422, "Invalid"),
    ("POST", MAPS + "?fieldManager=a%09b", {"metadata": {"name": "a"}}, 422, "Invalid"),
    ("DELETE", "/api/v1/namespaces/default", None, 403, "Forbidden"),
]


async def test_bad_requests_are_statuses_and_leave_the_store_alone(admin, servers) -> None:
    _, before = await call(admin, "GET", MAPS)
    for method, path, body, code, reason in BAD_REQUESTS:
        got, status = await call(admin, method, path, body)
        assert (got, status.get("reason")) == (code, reason), f"{method} {path}: {status}"
        if reason:
            assert (status["kind"], status["status"], status["code"]) == ("Status", "Failure", code)
    _, after = await call(admin, "GET", MAPS)
    assert after["items"] == before["items"]
    got, text = await call(admin, "GET", "/no/such/path")
    assert (got, text) == (404, "404 page not found\n")
    got, status = await call(admin, "POST", MAPS, config_map(), Content_Type="text/plain")
    assert (got, status["reason"]) == (415, "UnsupportedMediaType")
    got, status = await call(admin, "GET", MAPS, Accept="application/vnd.kubernetes.protobuf")
    assert (got, status["reason"]) == (406, "NotAcceptable")


async def test_unknown_fields_are_warnings_unless_strict(admin) -> None:
    body = orjson.dumps(config_map(dta={}))
    async with admin.post(MAPS, data=body, headers=JSON) as response:
        assert response.status == 201
        assert response.headers["Warning"] == '299 - "unknown field \\"dta\\""'
        assert response.headers["Audit-Id"] and response.headers["Cache-Control"] == "no-cache, private"
        assert "dta" not in await response.json()
    code, status = await call(admin, "POST", MAPS + "?fieldValidation=Strict", body)
    assert (code, 'strict decoding error: unknown field "dta"' in status["message"]) == (400, True)


async def test_who_writes_what_nobody_acts_on_is_told_so(admin) -> None:
    path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    body = {"metadata": {"name": "web"}, "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment"}}}
    body["spec"]["scaleTargetRef"] |= {"name": "web", "apiVersion": "apps/v1"}
    text = "this cluster has no controller of HorizontalPodAutoscalers: nothing is scaled by it"
    async with admin.post(path, data=orjson.dumps(body), headers=JSON) as response:
        assert (response.status, response.headers["Warning"]) == (201, f'299 - "{text}"')
    async with admin.get(f"{path}/web") as response:
        assert (response.status, "Warning" in response.headers) == (200, False)
    patch = orjson.dumps({"status": {"currentReplicas": 2}})
    merge = {"Content-Type": "application/merge-patch+json"}
    async with admin.patch(f"{path}/web/status", data=patch, headers=merge) as response:
        assert (response.status, "Warning" in response.headers) == (200, False)
    async with admin.post(MAPS, data=orjson.dumps(config_map("quiet")), headers=JSON) as response:
        assert (response.status, "Warning" in response.headers) == (201, False)


async def test_who_asks_for_what_is_given_up_is_told_so(admin) -> None:
    endpoints = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"
    for path, text in (
        ("/api/v1/endpoints", endpoints),
        ("/api/v1/namespaces/default/endpoints/none", endpoints),
        ("/api/v1/endpoints?watch=1&timeoutSeconds=1", endpoints),
        ("/api/v1/componentstatuses", "v1 ComponentStatus is deprecated in v1.19+"),
    ):
        async with admin.get(path) as response:
            assert response.headers["Warning"] == f'299 - "{text}"'
    async with admin.get("/apis/discovery.k8s.io/v1/endpointslices") as response:
        assert "Warning" not in response.headers


async def test_dry_run_answers_and_stores_nothing(admin) -> None:
    code, made = await call(admin, "POST", MAPS + "?dryRun=All", config_map())
    assert (code, bool(made["metadata"]["uid"])) == (201, True)
    assert (await call(admin, "GET", f"{MAPS}/a"))[0] == 404


async def test_yaml_in_and_out(admin) -> None:
    body = "metadata:\n  name: a\ndata:\n  x: yes it is\n"
    code, made = await call(admin, "POST", MAPS, body, Content_Type="application/yaml")
    assert (code, made["data"]) == (201, {"x": "yes it is"})
    async with admin.get(f"{MAPS}/a", headers={"Accept": "application/yaml"}) as response:
        assert "x: yes it is" in await response.text()


async def test_chunks_are_one_list_at_one_revision(admin) -> None:
    for index in range(7):
        await call(admin, "POST", MAPS, config_map(f"m{index}"))
    _, first = await call(admin, "GET", MAPS + "?limit=3&labelSelector=")
    await call(admin, "POST", MAPS, config_map("m3a"))
    await call(admin, "DELETE", f"{MAPS}/m5")
    names = [item["metadata"]["name"] for item in first["items"]]
    revision, token = first["metadata"]["resourceVersion"], first["metadata"]["continue"]
    assert first["metadata"]["remainingItemCount"] == 4
    while token:
        code, page = await call(admin, "GET", f"{MAPS}?limit=3&continue={token}")
        assert (code, page["metadata"]["resourceVersion"]) == (200, revision)
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert names == [f"m{index}" for index in range(7)]
    _, exact = await call(admin, "GET", f"{MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")
    assert [item["metadata"]["name"] for item in exact["items"]] == names
    _, now = await call(admin, "GET", f"{MAPS}?resourceVersion={revision}")
    assert "m3a" in [item["metadata"]["name"] for item in now["items"]]


async def test_a_revision_of_the_future_is_waited_for_then_refused(admin) -> None:
    _, made = await call(admin, "POST", MAPS, config_map())
    code, status = await call(admin, "GET", f"{MAPS}?resourceVersion={int(made['metadata']['resourceVersion']) + 1000}")
    assert (code, status["reason"], status["details"]["retryAfterSeconds"]) == (504, "Timeout", 1)
    assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


async def events_of(response: aiohttp.ClientResponse, count: int) -> list[dict[str, Any]]:
    """The next `count` events of a watch."""
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            line = await response.content.readline()
            assert line, f"the watch ended after {found}"
            found.append(json.loads(line))
    return found


def brief(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]


async def test_watch_from_a_list_with_a_selector(admin) -> None:
    await call(admin, "POST", MAPS, config_map("a", metadata={"name": "a", "labels": {"c": "red"}}))
    _, listed = await call(admin, "GET", MAPS)
    revision = listed["metadata"]["resourceVersion"]
    path = f"{MAPS}?watch=true&resourceVersion={revision}&labelSelector=c%3Dred"
    async with admin.get(path) as watch:
        assert watch.content_type == "application/json"
        patch = {"Content_Type": "application/merge-patch+json"}
        await call(admin, "PATCH", f"{MAPS}/a", {"metadata": {"labels": {"c": "blue"}}}, **patch)
        await call(admin, "PATCH", f"{MAPS}/a", {"data": {"unseen": "1"}}, **patch)
        await call(admin, "PATCH", f"{MAPS}/a", {"metadata": {"labels": {"c": "red"}}}, **patch)
        await call(admin, "DELETE", f"{MAPS}/a")
        events = await events_of(watch, 3)
    assert brief(events) == [("DELETED", "a"), ("ADDED", "a"), ("DELETED", "a")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(set(versions)) and versions[0] > int(revision)


async def test_watch_list_and_polite_end(admin) -> None:
    await call(admin, "POST", MAPS, config_map("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1"
    path = f"{MAPS}?{query}"
    async with admin.get(path) as watch:
        events = await events_of(watch, 2)
        assert brief(events) == [("ADDED", "a"), ("BOOKMARK", "")]
        bookmark = events[1]["object"]
        assert bookmark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
        assert (bookmark["kind"], bookmark["apiVersion"]) == ("ConfigMap", "v1")
        rest = [json.loads(line) for line in (await watch.content.read()).splitlines()]
        assert brief(rest) == [("BOOKMARK", "")]  # and the chunk terminator: read() returned


async def test_watch_of_a_forgotten_revision_is_expired(servers) -> None:
    await servers.add()  # its history starts with what it found
    async with servers.session(index=1) as session:
        async with session.get(f"{MAPS}?watch=1&resourceVersion=1") as watch:
            assert watch.status == 200
            [event] = [json.loads(line) for line in (await watch.content.read()).splitlines()]
        assert event["type"] == "ERROR"
        status = event["object"]
        assert (status["kind"], status["code"], status["reason"]) == ("Status", 410, "Expired")
        assert status["message"].startswith("too old resource version: 1 (")


async def test_a_watch_that_asks_for_no_bookmarks_gets_none_at_the_end_of_what_is_there(admin) -> None:
    await call(admin, "POST", MAPS, config_map("a"))
    query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1"
    async with admin.get(f"{MAPS}?{query}") as watch:
        events = [json.loads(line) for line in (await watch.content.read()).splitlines()]
    assert brief(events) == [("ADDED", "a")]


async def test_tables(admin) -> None:
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
    await call(admin, "POST", MAPS, config_map("a"))
    _, table = await call(admin, "GET", MAPS, Accept=accept)
    assert table["kind"] == "Table"
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Data", "Age"]
    assert [row["cells"][:2] for row in table["rows"]] == [["a", 1]]
    path = f"{MAPS}?watch=1&resourceVersion=0"
    async with admin.get(path, headers={"Accept": accept}) as watch:
        await call(admin, "DELETE", f"{MAPS}/a")
        first, second = await events_of(watch, 2)
    assert first["object"]["columnDefinitions"] and not second["object"].get("columnDefinitions")
    assert second["object"]["rows"][0]["object"]["metadata"]["name"] == "a"


async def test_generated_names_are_drawn_again_when_taken(admin) -> None:
    answers = await asyncio.gather(
        *(call(admin, "POST", MAPS, {"metadata": {"generateName": "gen-"}}) for _ in range(30))
    )
    names = {made["metadata"]["name"] for code, made in answers if code == 201}
    assert len(names) == 30
    assert all(len(name) == len("gen-") + 5 for name in names)


async def test_deletecollection_deletes_what_the_selector_chooses(admin) -> None:
    for name, color in (("a", "red"), ("b", "red"), ("c", "blue")):
        await call(admin, "POST", MAPS, {"metadata": {"name": name, "labels": {"c": color}}})
    code, gone = await call(admin, "DELETE", MAPS + "?labelSelector=c%3Dred")
    assert (code, [item["metadata"]["name"] for item in gone["items"]]) == (200, ["a", "b"])
    _, left = await call(admin, "GET", MAPS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["c"]


async def test_deletecollection_with_a_limit_deletes_one_page(admin) -> None:
    for name in "abcde":
        await call(admin, "POST", MAPS, {"metadata": {"name": name, "labels": {"c": "red"}}})
    code, gone = await call(admin, "DELETE", f"{MAPS}?limit=2")
    assert (code, [item["metadata"]["name"] for item in gone["items"]]) == (200, ["a", "b"])
    assert gone["metadata"]["remainingItemCount"] == 3
    code, gone = await call(admin, "DELETE", f"{MAPS}?limit=2&continue={gone['metadata']['continue']}")
    assert (code, [item["metadata"]["name"] for item in gone["items"]]) == (200, ["c", "d"])
    _, left = await call(admin, "GET", MAPS)
    assert [item["metadata"]["name"] for item in left["items"]] == ["e"]


@pytest.mark.parametrize("path", [f"{MAPS}/a", MAPS])
async def test_a_deletion_that_is_to_be_tried_somehow_is_not_done(admin, path) -> None:
    """The server knows one way to try. Who asks for another does not want it done."""
    await call(admin, "POST", MAPS, config_map())
    for way, code in (["Some"], 422), (["All", "Some"], 422), (["All"], 200):
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": way}
        answered, status = await call(admin, "DELETE", path, options)
        assert answered == code
        if code == 422:
            shown = orjson.dumps(way).decode()
            assert status["message"] == (
                f'DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: {shown}: supported values: "All"'
            )
            assert (status["details"]["group"], status["details"]["kind"]) == ("meta.k8s.io", "DeleteOptions")
        assert (await call(admin, "GET", f"{MAPS}/a"))[0] == 200


@pytest.mark.parametrize("query", ["fieldManager=" + "m" * 129, "fieldValidation=Some", "force=maybe"])
async def test_a_deletion_passes_over_what_other_writes_may_say(admin, query) -> None:
    await call(admin, "POST", MAPS, config_map("a"))
    assert (await call(admin, "DELETE", f"{MAPS}/a?{query}"))[0] == 200
    assert (await call(admin, "POST", f"{MAPS}?force=maybe", config_map("a")))[0] == 201


async def test_a_field_manager_of_many_bad_letters_is_refused_in_few_words(admin) -> None:
    code, status = await call(admin, "POST", f"{MAPS}?fieldManager={'%01' * 2000}", config_map("a"))
    assert (code, len(status["details"]["causes"])) == (422, 1)
    code, status = await call(admin, "POST", f"{MAPS}?fieldManager={'%01' * 2}", config_map("a"))
    assert (code, len(status["details"]["causes"])) == (422, 2)


LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


async def test_a_put_makes_a_lease_that_is_not_there(admin) -> None:
    """As upstream for a few kinds; others have to be posted."""
    lease = {"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"holderIdentity": "me"}}
    code, made = await call(admin, "PUT", f"{LEASES}/a?dryRun=All", lease)
    assert (code, made["spec"]) == (201, {"holderIdentity": "me"})
    assert (await call(admin, "GET", f"{LEASES}/a"))[0] == 404
    code, made = await call(admin, "PUT", f"{LEASES}/a", lease)
    assert (code, made["spec"], bool(made["metadata"]["uid"])) == (201, {"holderIdentity": "me"}, True)
    assert await call(admin, "PUT", f"{LEASES}/a", made) == (200, made)
    code, status = await call(admin, "PUT", f"{LEASES}/a", lease)
    assert (code, status["reason"]) == (409, "Conflict")
    other = {"metadata": {"name": "b", "uid": "of another"}, "spec": {}}
    code, status = await call(admin, "PUT", f"{LEASES}/b", other)
    assert (code, status["reason"]) == (409, "Conflict")
    elsewhere = LEASES.replace("default", "none")
    code, status = await call(admin, "PUT", f"{elsewhere}/a", {"metadata": {"name": "a"}})
    assert (code, status["message"]) == (404, 'namespaces "none" not found')


@pytest.mark.parametrize("content_type", ["application/json", "application/apply-patch+yaml"])
async def test_who_may_only_change_makes_nothing(admin, servers, content_type) -> None:
    rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    rules = [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["update", "patch", "list"]}]
    await call(admin, "POST", f"{rbac}/roles", {"metadata": {"name": "r"}, "rules": rules})
    subjects = [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}]
    role = {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}
    bound = {"metadata": {"name": "r"}, "subjects": subjects, "roleRef": role}
    assert (await call(admin, "POST", f"{rbac}/rolebindings", bound))[0] == 201
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "a"}}
    lease["spec"] = {"holderIdentity": "eve"}
    method = "PUT" if content_type == "application/json" else "PATCH"
    path = f"{LEASES}/a?fieldManager=eve&resourceVersion="
    async with servers.session("eve", ()) as eve:

        async def written() -> tuple[int, dict]:
            return await call(eve, method, path, lease, Content_Type=content_type)

        await becomes(200, eve, LEASES)
        code, status = await written()
        assert (code, 'cannot create resource "leases"' in status["message"]) == (403, True)
        code, made = await call(admin, "POST", LEASES, {"metadata": {"name": "a"}})
        lease["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
        code, changed = await written()
        assert (code, changed["spec"]) == (200, {"holderIdentity": "eve"})


async def test_a_put_makes_a_service_with_an_address(admin) -> None:
    path = "/api/v1/namespaces/default/services/web"
    service = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
    code, made = await call(admin, "PUT", path, service)
    assert (code, made["spec"]["clusterIPs"]) == (201, [made["spec"]["clusterIP"]])
    assert await call(admin, "PUT", path, made) == (200, made)


async def test_an_update_of_a_version_that_never_was_is_a_conflict_at_once(admin, api) -> None:
    """A client may have read it from a store that was then restored: it is to read again, not to come again."""
    _, made = await call(admin, "POST", MAPS, config_map())
    metadata = made["metadata"] | {"resourceVersion": str(int(made["metadata"]["resourceVersion"]) + 10_000)}
    code, status = await call(admin, "PUT", f"{MAPS}/a", made | {"metadata": metadata})
    assert (code, status["reason"]) == (409, "Conflict")
    # And what is asked for beside it is done.
    other = operations.patch(builtin("v1", "ConfigMap"), "default", "a", {"data": {"y": "2"}})
    results = await api.write([operations.update(made | {"metadata": metadata}), other])
    assert [result.code for result in results] == [409, 200]


async def test_version_0_of_an_update_says_no_more_than_none(admin) -> None:
    await call(admin, "POST", MAPS, config_map())
    body = config_map(metadata={"name": "a", "resourceVersion": "0"}, data={"x": "2"})
    code, changed = await call(admin, "PUT", f"{MAPS}/a", body)
    assert (code, changed["data"]) == (200, {"x": "2"})


async def test_a_lease_is_not_replaced_blindly(admin) -> None:
    """Two who want to lead would both have it."""
    leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
    lease = {"metadata": {"name": "a"}, "spec": {"holderIdentity": "one"}}
    _, made = await call(admin, "POST", leases, lease)
    other = {"metadata": {"name": "a"}, "spec": {"holderIdentity": "two"}}
    code, status = await call(admin, "PUT", f"{leases}/a", other)
    assert (code, status["details"]["causes"][0]["field"]) == (422, "metadata.resourceVersion")
    assert status["message"].endswith(
        '"a" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update'
    )
    other["metadata"]["resourceVersion"] = made["metadata"]["resourceVersion"]
    assert (await call(admin, "PUT", f"{leases}/a", other))[0] == 200
    code, _ = await call(admin, "PATCH", f"{leases}/a", lease, Content_Type="application/merge-patch+json")
    assert code == 200


async def test_deletecollection_of_more_than_the_store_takes_at_once(admin, api) -> None:
    """Objects with finalizers are written again when they are deleted, with all that they hold."""
    large = [
        {
            "kind": "ConfigMap",
            "apiVersion": "v1",
            "metadata": {"name": f"m{number}", "namespace": "default", "finalizers": ["example.com/wait"]},
            "data": {"x": "x" * 1_000_000},
        }
        for number in range(36)
    ]
    assert {result.code for result in await api.write([operations.create(each) for each in large])} == {201}
    code, gone = await call(admin, "DELETE", MAPS)
    assert (code, len(gone["items"])) == (200, 36), gone
    _, left = await call(admin, "GET", MAPS)
    assert all(item["metadata"]["deletionTimestamp"] for item in left["items"])
    # What is to be written in one step cannot be written in several.
    labels = {"metadata": {"labels": {"a": "b"}}}
    maps = builtin("v1", "ConfigMap")
    patches = [operations.patch(maps, "default", each["metadata"]["name"], labels) for each in large]
    assert {result.code for result in await api.write_together(patches)} == {413}


async def test_server_side_apply_creates_updates_and_conflicts(admin) -> None:
    apply = {"Content_Type": "application/apply-patch+yaml"}
    body = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "a"}, "data": {"x": "1"}}
    code, made = await call(admin, "PATCH", f"{MAPS}/a?fieldManager=one", body, **apply)
    assert (code, made["metadata"]["managedFields"][0]["manager"]) == (201, "one")
    code, same = await call(admin, "PATCH", f"{MAPS}/a?fieldManager=one", body, **apply)
    assert (code, same["metadata"]["resourceVersion"]) == (200, made["metadata"]["resourceVersion"])
    body["data"] = {"x": "2"}
    code, status = await call(admin, "PATCH", f"{MAPS}/a?fieldManager=two", body, **apply)
    assert (code, status["reason"]) == (409, "Conflict")
    code, forced = await call(admin, "PATCH", f"{MAPS}/a?fieldManager=two&force=true", body, **apply)
    assert (code, forced["data"]) == (200, {"x": "2"})
    code, status = await call(admin, "PATCH", f"{MAPS}/a", body, **apply)
    assert (code, status["details"]["causes"][0]["field"]) == (422, "fieldManager")


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version", "/version/"])
async def test_health_and_version_answer_everybody(servers, path) -> None:
    async with servers.session("", ()) as nobody, nobody.get(path) as response:
        assert response.status == 200


async def test_who_may_what(servers) -> None:
    async with servers.session("", ()) as nobody:
        code, status = await call(nobody, "GET", MAPS)
        assert code == 403
        assert status["message"] == (
            'configmaps is forbidden: User "system:anonymous" cannot list resource "configmaps" in API group "" in the '
            'namespace "default"'
        )
        code, status = await call(nobody, "GET", MAPS, Authorization="Bearer nonsense")
        assert (code, status["reason"]) == (401, "Unauthorized")
    async with servers.session("alice", ()) as alice, servers.session() as admin:
        assert (await call(alice, "GET", MAPS))[0] == 403
        binding = {
            "metadata": {"name": "alice"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
        }
        rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
        assert (await call(admin, "POST", rbac, binding))[0] == 201
        await becomes(200, alice, MAPS)
        assert (await call(alice, "POST", MAPS, config_map()))[0] == 403
        review = {"spec": {"resourceAttributes": {"verb": "list", "resource": "configmaps", "namespace": "default"}}}
        _, answer = await call(alice, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        assert answer["status"]["allowed"] is True
        _, me = await call(alice, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {})
        assert me["status"]["userInfo"]["username"] == "alice"
        code, me = await call(
            admin, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, Impersonate_User="alice"
        )
        assert me["status"]["userInfo"]["username"] == "alice"


async def test_tokens_for_service_accounts(servers, admin) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    await call(admin, "POST", accounts, {"metadata": {"name": "bot"}})
    code, request = await call(admin, "POST", f"{accounts}/bot/token", {"spec": {"expirationSeconds": 600}})
    assert code == 201
    token = request["status"]["token"]
    async with servers.session("", ()) as bot:
        bearer = {"Authorization": f"Bearer {token}"}
        _, me = await call(bot, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", {}, **bearer)
        assert me["status"]["userInfo"]["username"] == "system:serviceaccount:default:bot"
        await call(admin, "DELETE", f"{accounts}/bot")
        await becomes(401, bot, "/version", **bearer)
    code, keys = await call(admin, "GET", "/openid/v1/jwks")
    assert (code, len(keys["keys"])) == (200, 1)


async def test_metrics_count_requests(admin) -> None:
    await call(admin, "POST", MAPS, config_map())
    _, text = await call(admin, "GET", "/metrics")
    assert 'apiserver_request_total{verb="CREATE",group="",version="v1",resource="configmaps"' in text
    assert 'apiserver_storage_objects{resource="configmaps"} 1\n' in text


async def test_the_two_faces_of_events(admin) -> None:
    event = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Because",
        "message": "hello",
        "type": "Normal",
    }
    code, _ = await call(admin, "POST", "/api/v1/namespaces/default/events", event)
    assert code == 201
    code, seen = await call(admin, "GET", "/apis/events.k8s.io/v1/namespaces/default/events/e")
    assert (code, seen["apiVersion"], seen["note"]) == (200, "events.k8s.io/v1", "hello")
    assert seen["regarding"]["name"] == "p"


async def test_large_answers_are_compressed_for_those_who_ask(servers, admin) -> None:
    config_map = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "large"}, "data": {"x": "y" * 200_000}}
    code, _ = await call(admin, "POST", MAPS, config_map)
    assert code == 201
    for path, wanted, coding in (
        (f"{MAPS}/large", "gzip", "gzip"),
        (MAPS, "br, gzip;q=0.5", "gzip"),
        (MAPS, "gzip;q=0", None),
        (MAPS, "identity", None),
        (f"{MAPS}?limit=1&fieldSelector=metadata.name=none", "gzip", None),
    ):
        async with admin.get(path, headers={"Accept-Encoding": wanted}) as response:
            assert response.headers.get("Content-Encoding") == coding, (path, wanted)
            body = await response.json()
        if coding:
            found = (
                body
                if body["kind"] == "ConfigMap"
                else next(each for each in body["items"] if "data" in each and "x" in each["data"])
            )
            assert found["data"]["x"] == "y" * 200_000
