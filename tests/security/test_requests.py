"""Hostile and broken requests at the HTTPS front: the right refusal, the store untouched, the server alive."""

import base64
import contextlib
import json
import socket
import ssl
import time
from typing import Any

import pytest

from raykube.cluster import addresses
from tests.kit.controlplane import until
from tests.security.conftest import Answer, Doors

pytestmark = pytest.mark.integration

MAPS = "/api/v1/namespaces/default/configmaps"
ALIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


def config_map(name: str = "m", **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **fields}


def admin(doors: Doors, path: str, method: str = "GET", body: Any = None, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return doors.http(doors.pair("admin"), path, method, body, named)


def contents(doors: Doors) -> dict[str, str]:
    """Every ConfigMap with its version."""
    items = json.loads(admin(doors, "/api/v1/configmaps").body)["items"]
    return {item["metadata"]["uid"]: item["metadata"]["resourceVersion"] for item in items}


def raw(doors: Doors, data: bytes, *, certificate: str | None = "admin") -> bytes:
    """Sends bytes as they are; returns all that comes back until the server closes, or says nothing for 3 s."""
    context = doors.context(doors.pair(certificate) if certificate else None)
    answer = b""
    plain = socket.create_connection((doors.address, addresses.APISERVER_PORT), 5)
    with context.wrap_socket(plain, server_hostname=doors.address) as secure:
        secure.settimeout(3)
        with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
            secure.sendall(data)
            while chunk := secure.recv(65536):
                answer += chunk
    return answer


# -- who asks


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/version"])
def test_anonymous_sees_health_and_version(doors: Doors, path: str) -> None:
    assert doors.http(None, path).code == 200


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/api/v1/namespaces/default/secrets",
            (
                'secrets is forbidden: User "system:anonymous" cannot list resource "secrets" in API group "" in the '
                'namespace "default"'
            ),
        ),
        (
            "/apis/apps/v1/deployments",
            (
                'deployments.apps is forbidden: User "system:anonymous" cannot list resource "deployments" in API '
                'group "apps" at the cluster scope'
            ),
        ),
        ("/metrics", 'forbidden: User "system:anonymous" cannot get path "/metrics"'),
        ("/apis/../metrics", 'forbidden: User "system:anonymous" cannot get path "/apis/../metrics"'),
    ],
)
def test_anonymous_sees_nothing_else(doors: Doors, path: str, message: str) -> None:
    answer = doors.http(None, path)
    assert (answer.code, answer.status["reason"], answer.status["message"]) == (403, "Forbidden", message)


def test_a_stranger_is_not_let_in(doors: Doors) -> None:
    with pytest.raises(OSError):
        doors.http(doors.foreign(), "/api/v1/secrets")


def _tampered(token: str, **claims: object) -> str:
    head, body, signature = token.split(".")
    found = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps(found | claims).encode()).rstrip(b"=").decode()
    return f"{head}.{changed}.{signature}"


def _unsigned(token: str) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return f"{head}.{token.split('.')[1]}."


def test_a_token_serves_while_its_account_is_there_and_nobody_changed_it(doors: Doors) -> None:
    plane = doors.plane
    plane.kubectl("create", "serviceaccount", "robot")
    token = plane.kubectl("create", "token", "robot").strip()

    def asked(text: str) -> Answer:
        return doors.http(None, "/api/v1/namespaces/default/secrets", headers={"Authorization": text})

    assert (
        asked(f"Bearer {token}")
        .status["message"]
        .startswith('secrets is forbidden: User "system:serviceaccount:default:robot" cannot list resource "secrets"')
    )
    bad = [
        _unsigned(token),
        _tampered(token, sub="system:serviceaccount:kube-system:default"),
        token[:-4] + "AAAA",
        token + ".x",
        "x",
        "a.b.c",
        "é",
        "x" * 4000,
    ]
    for text in bad:
        refused = doors.http(None, "/api/v1/namespaces/default/secrets", headers={"Authorization": f"Bearer {text}"})
        assert (refused.code, refused.status["reason"]) == (401, "Unauthorized"), text[:40]
    plane.kubectl("delete", "serviceaccount", "robot")
    until("the token ends with its account", lambda: asked(f"Bearer {token}").code == 401, 10)
    plane.kubectl("create", "serviceaccount", "robot")
    assert asked(f"Bearer {token}").code == 401, "an account of the same name is another one"


def test_nobody_becomes_another_or_gets_more_rights(doors: Doors) -> None:
    jane = doors.signed("jane", "dev")
    plane = doors.plane
    rules = "--verb=get,list,create,update,patch"
    plane.kubectl(
        "create", "clusterrole", "roles", rules, "--resource=clusterroles,clusterrolebindings,roles,rolebindings"
    )
    plane.kubectl("create", "clusterrolebinding", "jane", "--clusterrole=roles", "--user=jane")
    for headers in (
        {"Impersonate-User": "kubernetes-admin"},
        {"Impersonate-User": "jane", "Impersonate-Group": "system:masters"},
        {"Impersonate-User": "system:serviceaccount:kube-system:x"},
    ):
        refused = doors.http(jane, "/api/v1/secrets", headers=headers)
        assert (refused.code, refused.status["reason"]) == (403, "Forbidden"), headers
    alone = doors.http(doors.pair("admin"), "/api/v1/secrets", headers={"Impersonate-Group": "system:masters"})
    assert alone.code in (400, 403, 500)
    api = "/apis/rbac.authorization.k8s.io/v1"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "more"}}
    role["rules"] = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]  # type: ignore[assignment]
    until("jane may write roles", lambda: doors.http(jane, f"{api}/clusterroles").code == 200, 10)
    refused = doors.http(jane, f"{api}/clusterroles", "POST", role)
    assert refused.code == 403
    assert "attempting to grant RBAC permissions not currently held" in refused.status["message"]
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "more"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}],
    }
    assert doors.http(jane, f"{api}/clusterrolebindings", "POST", binding).code == 403
    widened = {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
    merge = {"Content-Type": "application/merge-patch+json"}
    assert doors.http(jane, f"{api}/clusterroles/roles", "PATCH", widened, merge).code == 403
    assert doors.http(jane, "/api/v1/secrets").code == 403


# -- what they send


BAD_BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"null", 400),
    (b"\xff\xfe", 400),
    (b"[" * 200_000, 400),
    (b'{"a":' * 20_000, 400),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a\xff"}}', 400),
    (b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}', 400),
    (b'{"apiVersion":"v9","kind":"ConfigMap","metadata":{"name":"a"}}', 400),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"x":7}}', 400),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":[]}', 400),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"kube-system"}}', 400),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}', 422),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":".."}}', 422),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a/b"}}', 422),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a\\u0000b"}}', 422),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"' + b"a" * 254 + b'"}}', 422),
    (b'{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"../x":"y"}}', 422),
]


@pytest.mark.parametrize("number", range(len(BAD_BODIES)))
def test_a_bad_body_is_refused_and_nothing_written(doors: Doors, number: int) -> None:
    body, code = BAD_BODIES[number]
    before = contents(doors)
    answer = admin(doors, MAPS, "POST", body)
    assert answer.code == code, answer.body
    assert answer.status["reason"] == {400: "BadRequest", 422: "Invalid"}[code]
    assert contents(doors) == before


def test_yaml_and_protobuf_that_are_none(doors: Doors) -> None:
    bombs = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (c, c, *[c - 1] * 8) for c in range(98, 110)
    )
    for kind, bodies in (
        ("application/yaml", (b"a: [", b"\t", b"a: !!python/object/apply:os.system [id]", bombs)),
        (
            "application/vnd.kubernetes.protobuf",
            (b"", b"k8s\0", b"k8s\0\xff\xff\xff", b"nope", b"k8s\0\x0a\xff\xff\xff\x7f"),
        ),
    ):
        for body in bodies:
            started = time.monotonic()
            answer = admin(doors, MAPS, "POST", body, Content_Type=kind)
            assert answer.code in (400, 422), (body[:40], answer.body[:300])
            assert time.monotonic() - started < 10
    for kind in ("text/html", "application/x-www-form-urlencoded", "nonsense"):
        answer = admin(doors, MAPS, "POST", config_map(), Content_Type=kind)
        assert (answer.code, answer.status["reason"]) == (415, "UnsupportedMediaType")


def test_sizes(doors: Doors) -> None:
    large = json.dumps(config_map("large", data={"x": ""})).encode().replace(b'""', b'"%s"')
    full = large % (b"y" * (3 * 1024 * 1024 + 1 - len(large) + 2))
    answer = admin(doors, MAPS, "POST", full)
    assert (answer.code, answer.status["reason"]) == (413, "RequestEntityTooLarge")
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % MAPS.encode()
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(full), full)
    assert b" 413 " in raw(doors, chunked)[:20]
    small = json.dumps(config_map("chunked")).encode()
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (
        len(small),
        small,
    )
    assert b" 201 " in raw(doors, chunked)[:20]
    assert b" 201 " not in raw(doors, head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")[:20]
    assert admin(doors, f"{MAPS}/chunked", "DELETE").code == 200


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/v1/nonsense", 404),
        ("/apis/none/v1/things", 404),
        ("/nonsense", 404),
        (MAPS + "/..%2f..%2fsecrets", 404),
        (MAPS + "/a%00b", 404),
        (MAPS + "/%ff", 404),
        (MAPS + "?labelSelector=a%20in%20(", 400),
        (MAPS + "?labelSelector=%00", 400),
        (MAPS + "?fieldSelector=spec.x%3Dy", 400),
        (MAPS + "?limit=x", 400),
        (MAPS + "?continue=x", 400),
        (MAPS + "?continue=" + base64.urlsafe_b64encode(b'{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}').decode(), 400),
        (MAPS + "?resourceVersion=-1", 400),
        (MAPS + "?resourceVersion=x", 400),
        (MAPS + "?resourceVersion=99999999999999999999999", 400),
        (MAPS + "?watch=1&resourceVersion=x", 400),
        (MAPS + "?watch=1&timeoutSeconds=x", 400),
    ],
)
def test_bad_paths_and_parameters(doors: Doors, path: str, code: int) -> None:
    answer = admin(doors, path)
    assert answer.code == code, answer.body[:300]
    if path != "/nonsense":
        assert answer.headers["content-type"].startswith(("application/json", "text/plain"))


def test_conflicts(doors: Doors) -> None:
    made = admin(doors, MAPS, "POST", config_map("twice"))
    assert made.code == 201
    again = admin(doors, MAPS, "POST", config_map("twice"))
    assert (again.code, again.status["reason"]) == (409, "AlreadyExists")
    assert again.status["message"] == 'configmaps "twice" already exists'
    stale = config_map("twice", data={"a": "b"})
    stale["metadata"]["resourceVersion"] = "1"
    answer = admin(doors, f"{MAPS}/twice", "PUT", stale)
    assert (answer.code, answer.status["reason"]) == (409, "Conflict")
    stale["metadata"]["resourceVersion"] = "x"
    assert admin(doors, f"{MAPS}/twice", "PUT", stale).code in (400, 409, 422)
    answer = admin(doors, f"{MAPS}/twice", "PUT", config_map("other"))
    assert (answer.code, answer.status["reason"]) == (400, "BadRequest")
    assert admin(doors, f"{MAPS}/twice", "POST", config_map("twice")).code == 405
    assert admin(doors, f"{MAPS}/twice", "DELETE").code == 200


def test_strange_protocols(doors: Doors) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
    assert b" 200 " in raw(doors, b"GET /livez HTTP/1.0\r\n\r\n")[:20]
    assert raw(doors, request + b"\r\n" + ALIVE).count(b"HTTP/1.1 200") == 2, "pipelined requests are answered in turn"
    flood = request + b"".join(b"X-%d: y\r\n" % number for number in range(20_000)) + b"\r\n"
    assert b" 400 " in raw(doors, flood)[:20] or not raw(doors, flood)
    for data in (
        request + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\0" * 1000,
        b"GET\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n" % MAPS.encode(),
        b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n" % MAPS.encode(),
    ):
        answer = raw(doors, data)
        assert not answer or b" 4" in answer[:14], (data[:40], answer[:100])
        assert b"Traceback" not in answer
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )
    assert b" 101 " not in raw(doors, b"GET %s HTTP/1.1\r\nHost: x\r\n" % MAPS.encode() + upgrade)[:20]
    assert b" 405 " in raw(doors, b"TRACE /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[:20]
    assert b" 200 " in raw(doors, ALIVE, certificate=None)[:20]


def test_silent_connections_block_nobody(doors: Doors) -> None:
    place = (doors.address, addresses.APISERVER_PORT)
    context = doors.context(None)
    silent = [socket.create_connection(place, 5) for _ in range(100)]
    slow = []
    try:
        for _ in range(20):
            one = context.wrap_socket(socket.create_connection(place, 5), server_hostname=doors.address)
            one.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{" % MAPS.encode())
            slow.append(one)
        assert doors.http(None, "/livez").code == 200
        assert admin(doors, MAPS, "POST", config_map("unhindered")).code == 201
        assert admin(doors, f"{MAPS}/unhindered", "DELETE").code == 200
    finally:
        for each in [*silent, *slow]:
            each.close()


def test_every_component_still_runs(doors: Doors) -> None:
    assert all(process.poll() is None for started in doors.plane.running.values() for process in started)
    assert "unhandled" not in doors.plane.log("apiserver")
    assert " failed\nTraceback" not in doors.plane.log("apiserver"), "a request that the server did not expect"
