"""Protobuf bodies: the wire's traps, and what real kubectl sends."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import protobuf, resources, schema
from raykube.api.errors import ApiError
from tests.kit.require import require_program


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def block(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def body(api_version: str, kind: str, raw: bytes) -> bytes:
    return protobuf.MAGIC + block(1, block(1, api_version) + block(2, kind)) + block(2, raw)


def test_zero_counts_only_behind_a_pointer() -> None:
    spec = number(1, 0) + number(5, 0) + number(7, 0)  # replicas (pointer), minReadySeconds, paused (plain)
    meta = block(1, "x") + block(3, "") + block(8, b"")
    obj = protobuf.decode_protobuf(body("apps/v1", "Deployment", block(1, meta) + block(2, spec)))
    assert obj == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicas": 0}}


def test_inlined_structs_are_flat_and_empty_pointers_stay() -> None:
    volume = block(1, "v") + block(2, block(2, b""))  # volumeSource.emptyDir {}
    obj = protobuf.decode_protobuf(body("v1", "Pod", block(2, block(1, volume))))
    assert obj["spec"] == {"volumes": [{"name": "v", "emptyDir": {}}]}


def test_negative_numbers_bytes_and_times() -> None:
    spec = block(2, block(1, "c") + block(2, "i")) + number(4, -1)
    meta = block(8, number(1, 1_800_000_000))
    obj = protobuf.decode_protobuf(body("v1", "Pod", block(1, meta) + block(2, spec)))
    assert obj["metadata"]["creationTimestamp"] == "2027-01-15T08:00:00Z"
    assert obj["spec"]["terminationGracePeriodSeconds"] == -1
    secret = protobuf.decode_protobuf(
        body("v1", "Secret", block(2, block(1, "k") + block(2, b"\x00\xff")) + number(5, 0))
    )
    assert secret["data"] == {"k": "AP8="}
    assert secret["immutable"] is False


def test_unknown_fields_of_newer_clients_are_skipped() -> None:
    obj = protobuf.decode_protobuf(body("v1", "Pod", block(99, b"x") + number(98, 1)))
    assert obj == {"apiVersion": "v1", "kind": "Pod"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"k8s",
        b"k8s\x00",
        b"k8s\x01" + b"\x00" * 8,
        body("v1", "Nothing", b""),
        body("v1", "Pod", b"\x0a"),
        body("v1", "Pod", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        body("v1", "Pod", number(1, 5)),
        body("v1", "Pod", block(1, block(1, b"\xff"))),
        body("v1", "Pod", b"\x0b"),
        body("v1", "Pod", block(1, block(8, number(1, 2**62)))),
    ],
)
def test_malformed_bytes_are_a_bad_request(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        protobuf.decode_protobuf(data)
    assert caught.value.code == 400


def test_nested_objects_end() -> None:
    data = b"{}"
    for _ in range(3000):
        data = body("apps/v1", "ControllerRevision", block(2, block(1, data)))
    with pytest.raises(ApiError):
        protobuf.decode_protobuf(data)


KINDS = st.sampled_from([(row.api_version, row.kind) for row in resources.all_resources()])


@given(KINDS, st.binary(max_size=80))
def test_no_bytes_crash_the_decoder(kind: tuple[str, str], raw: bytes) -> None:
    for data in (raw, body(*kind, raw)):
        try:
            obj = protobuf.decode_protobuf(data)
        except ApiError as error:
            assert error.code == 400
        else:
            assert obj["kind"] == kind[1]


def test_a_body_cut_anywhere_is_an_object_or_a_400() -> None:
    whole = body(
        "v1", "Pod", block(1, block(1, "x") + block(11, block(1, "a") + block(2, "b"))) + block(2, number(4, 30))
    )
    for size in range(len(whole)):
        try:
            protobuf.decode_protobuf(whole[:size])
        except ApiError as error:
            assert error.code == 400


# -- real kubectl

COMMANDS = {
    "configmap": "configmap x --from-literal=a=b --from-literal=c=",
    "secret": "secret generic x --from-literal=a=b",
    "secret-tls": "secret docker-registry x --docker-username=u --docker-password=p --docker-server=s",
    "deployment": "deployment x --image=nginx:1 --replicas=0 --port=80",
    "deployment-command": "deployment x --image=a --image=b --replicas=3",
    "job": "job x --image=busybox -- sh -c true",
    "cronjob": "cronjob x --image=busybox --schedule=@hourly -- date",
    "service-clusterip": "service clusterip x --tcp=80:8080 --tcp=443",
    "service-nodeport": "service nodeport x --tcp=80:http --node-port=30080",
    "service-external": "service externalname x --external-name=example.com",
    "namespace": "namespace x",
    "serviceaccount": "serviceaccount x",
    "role": "role x --verb=get,list --resource=pods,deployments.apps --resource-name=a",
    "clusterrole": "clusterrole x --verb=get --non-resource-url=/logs/*",
    "rolebinding": "rolebinding x --role=y --user=u --group=g --serviceaccount=a:b",
    "clusterrolebinding": "clusterrolebinding x --clusterrole=y --user=u",
    "quota": "quota x --hard=cpu=1,pods=2 --scopes=BestEffort",
    "poddisruptionbudget": "pdb x --selector=a=b --min-available=50%",
    "priorityclass": "priorityclass x --value=-7 --description=d",
    "ingress": "ingress x --class=c --rule=foo.com/path*=svc:8080,tls=cert",
}


class Recorder(ThreadingHTTPServer):
    """Answers discovery of what `create role` looks up, and keeps the bodies of POSTs."""

    bodies: list[tuple[str, bytes]]


class Handler(BaseHTTPRequestHandler):
    server: Recorder
    protocol_version = "HTTP/1.1"
    documents: ClassVar[dict[str, dict[str, Any]]] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {
            "kind": "APIGroupList",
            "groups": [
                {
                    "name": "apps",
                    "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
                    "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"},
                }
            ],
        },
        "/api/v1": {
            "kind": "APIResourceList",
            "groupVersion": "v1",
            "resources": [
                {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
            ],
        },
        "/apis/apps/v1": {
            "kind": "APIResourceList",
            "groupVersion": "apps/v1",
            "resources": [
                {
                    "name": "deployments",
                    "namespaced": True,
                    "kind": "Deployment",
                    "verbs": ["get", "list"],
                    "singularName": "",
                }
            ],
        },
    }

    def answer(self, code: int, document: dict[str, Any]) -> None:
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        document = self.documents.get(self.path.partition("?")[0])
        if document is None:
            self.answer(404, ApiError.unknown_path().status())
        else:
            self.answer(200, document)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.bodies.append((self.headers.get("Content-Type", ""), data))
        self.answer(409, ApiError(409, "AlreadyExists", "recorded").status())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    server = Recorder(("127.0.0.1", 0), Handler)
    server.bodies = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def without_empty(value: Any) -> Any:
    """Go's JSON writes empty structs that protobuf's reader cannot tell from absent ones."""
    if isinstance(value, dict):
        kept = {key: without_empty(each) for key, each in value.items() if each is not None}
        return {key: each for key, each in kept.items() if each != {}}
    if isinstance(value, list):
        return [without_empty(each) for each in value]
    return value


@pytest.mark.integration
@pytest.mark.parametrize("name", COMMANDS)
def test_kubectl_generators(name: str, recorder: Recorder, tmp_path: Path) -> None:
    kubectl = require_program("kubectl")
    recorder.bodies.clear()
    host, port = recorder.server_address[:2]
    config = tmp_path / "config"
    config.write_text("")
    base = [
        kubectl,
        "--kubeconfig",
        str(config),
        f"--server=http://{host!s}:{port}",
        f"--cache-dir={tmp_path}/cache",
        "create",
    ]
    words = COMMANDS[name].split()
    at = words.index("--") if "--" in words else len(words)
    dry = subprocess.run(
        [*base, *words[:at], "--dry-run=client", "-o", "json", *words[at:]], capture_output=True, text=True, timeout=60
    )
    assert dry.returncode == 0, dry.stderr
    subprocess.run([*base, *words], capture_output=True, text=True, timeout=60)
    assert len(recorder.bodies) == 1
    content_type, data = recorder.bodies[0]
    assert content_type == "application/vnd.kubernetes.protobuf"
    decoded = protobuf.decode_protobuf(data)
    row = resources.of(decoded)
    assert row is not None
    printed = json.loads(dry.stdout)
    assert schema.conform(row, decoded) == []
    assert schema.conform(row, printed) == []
    for obj in (printed, decoded):
        obj["metadata"].pop("namespace", None)
        obj.pop("status", None)  # nobody creates with one
    assert without_empty(decoded) == without_empty(printed)
