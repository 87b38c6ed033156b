"""Tables for the small pure parts."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.resources import builtin
from raykube.api.strategic import strategic_merge
from raykube.kubelet.core.admission import admit, admit_apparmor, matches_node
from raykube.kubelet.core.environment import environment, expand, service_variables
from raykube.kubelet.core.nodestatus import parse_pairs, parse_taint
from raykube.kubelet.core.payload import PodFacts, payload
from raykube.kubelet.core.podlog import Budget, LogFilter, LogOptions, tail_start
from raykube.kubelet.core.qos import pod_requests, qos_class
from raykube.kubelet.core.sources import SourceMissing, Sources
from raykube.kubelet.core.statuspatch import alike, status_patch

Object = dict[str, Any]
PODS = builtin("v1", "Pod")
FACTS = PodFacts("10.1.0.1", ("10.0.0.1",), {"cpu": "4", "memory": "8Gi"})


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": 'x"y'}}
    return {"metadata": metadata, "spec": {"containers": list(containers), "nodeName": "n"} | spec}


def with_resources(requests: dict[str, str] | None = None, limits: dict[str, str] | None = None, **more: Any) -> Any:
    return {"name": "c", "resources": {"requests": requests or {}, "limits": limits or {}}} | more


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("x$(A)y$(B)", "x1y$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A $", "$A $"),
        ("$(A", "$(A"),
        ("$()", "$()"),
    ],
)
def test_expansion(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_service_variables() -> None:
    service = {
        "metadata": {"name": "my-db", "namespace": "ns"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
    }
    headless = {"metadata": {"name": "h", "namespace": "ns"}, "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    assert service_variables([service, headless]) == {
        "MY_DB_SERVICE_HOST": "10.96.0.9",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL": "5432",
        "MY_DB_PORT": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.96.0.9:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.96.0.9",
    }


def variables(spec: dict[str, Any], sources: Sources) -> dict[str, str | bytes]:
    return environment(pod(spec), spec, [], sources, "10.1.0.1", ("10.0.0.1",), {"cpu": "4"})


def test_environment_order_and_optional_sources() -> None:
    sources = Sources("ns", {("ConfigMap", "c"): {"data": {"k": "from", "X": "1"}}, ("Secret", "s"): None})
    spec = {
        "name": "c",
        "envFrom": [{"configMapRef": {"name": "c"}}, {"secretRef": {"name": "s", "optional": True}}],
        "env": [
            {"name": "X", "value": "2"},
            {"name": "Y", "value": "$(X)$(k)"},
            {"name": "Z", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
        ],
    }
    assert variables(spec, sources) == {"k": "from", "X": "2", "Y": "2from"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"configMapKeyRef": {"name": "no", "key": "k"}}, 'configmap "no" not found'),
        ({"secretKeyRef": {"name": "no", "key": "k"}}, 'secret "no" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, "couldn't find key k in ConfigMap ns/c"),
    ],
)
def test_missing_sources(source: dict[str, Any], message: str) -> None:
    spec = {"name": "c", "env": [{"name": "X", "valueFrom": source}]}
    with pytest.raises(SourceMissing) as caught:
        variables(spec, Sources("ns", {("ConfigMap", "c"): {"data": {}}}))
    assert str(caught.value) == message


def test_payloads() -> None:
    sources = Sources(
        "ns",
        {
            ("ConfigMap", "c"): {"data": {"k": "v"}, "binaryData": {"b": base64.b64encode(b"\xff").decode()}},
            ("Secret", "s"): {"data": {"p": base64.b64encode(b"w").decode()}},
        },
    )
    one = pod({"name": "c"})
    whole = payload(one, {"name": "x", "configMap": {"name": "c"}}, sources, [], FACTS)
    assert {path: file.content for path, file in whole.items()} == {"k": b"v", "b": b"\xff"}
    secret = {"secretName": "s", "items": [{"key": "p", "path": "d/p", "mode": 0o400}]}
    assert payload(one, {"name": "x", "secret": secret}, sources, [], FACTS)["d/p"].mode == 0o400
    projected = {
        "sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        ]
    }
    files = payload(one, {"name": "x", "projected": projected}, sources, ["jwt"], FACTS)
    assert files["token"].content == b"jwt"
    assert files["labels"].content == b'a="x\\"y"\nb="2"'
    with pytest.raises(ValueError, match="invalid path"):
        bad = {"name": "c", "items": [{"key": "k", "path": "../out"}]}
        payload(one, {"name": "x", "configMap": bad}, sources, [], FACTS)


@pytest.mark.parametrize(
    ("requests", "limits", "expected"),
    [
        ({}, {}, "BestEffort"),
        ({"cpu": "1"}, {}, "Burstable"),
        ({"cpu": "1", "memory": "1Gi"}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({}, {"cpu": "1", "memory": "1Gi"}, "Guaranteed"),
        ({"cpu": "1"}, {"cpu": "1000m"}, "Burstable"),
    ],
)
def test_qos(requests: dict[str, str], limits: dict[str, str], expected: str) -> None:
    assert qos_class(pod(with_resources(requests, limits))) == expected


def test_requests_of_init_containers_and_sidecars() -> None:
    one = pod(
        with_resources({"cpu": "1"}),
        initContainers=[
            with_resources({"cpu": "500m"}, name="side", restartPolicy="Always"),
            with_resources({"cpu": "3"}, name="init"),
        ],
        overhead={"cpu": "100m"},
    )
    assert float(pod_requests(one)["cpu"]) == 3.6


def node(**labels: str) -> dict[str, Any]:
    return {
        "metadata": {"name": "n", "labels": labels},
        "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "2"}},
    }


def test_admission() -> None:
    small, big = pod(with_resources({"cpu": "1500m"})), pod(with_resources({"cpu": "1"}))
    assert admit(small, [], node()) is None
    verdict = admit(big, [small], node())
    assert verdict is not None
    assert (verdict.reason, verdict.message) == (
        "OutOfcpu",
        "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000, used: 1500, capacity: 2000",
    )
    full = admit(pod({"name": "c"}), [pod({"name": "c"}), pod({"name": "c"})], node())
    assert full is not None
    assert full.reason == "OutOfpods"
    chosen = pod({"name": "c"}, nodeSelector={"disk": "ssd"})
    assert matches_node(chosen, node(disk="ssd"))
    rejected = admit(chosen, [], node())
    assert rejected is not None
    assert rejected.reason == "NodeAffinity"


def with_port(port: int, **fields: Any) -> dict[str, Any]:
    return pod({"name": "c", "ports": [{"containerPort": 80, "hostPort": port} | fields]})


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        (with_port(8080), with_port(8081), ""),
        (with_port(8080), with_port(8080), "NodePorts"),
        (with_port(8080), with_port(8080, protocol="UDP"), ""),
        (with_port(8080, hostIP="10.0.0.1"), with_port(8080, hostIP="10.0.0.2"), ""),
        (with_port(8080, hostIP="10.0.0.1"), with_port(8080, hostIP="0.0.0.0"), "NodePorts"),
        (with_port(8080, hostIP="10.0.0.1"), with_port(8080), "NodePorts"),
    ],
)
def test_a_port_of_the_machine_is_taken_once(one: dict[str, Any], other: dict[str, Any], reason: str) -> None:
    verdict = admit(one, [other], node())
    assert (verdict.reason if verdict is not None else "") == reason
    if verdict is not None:
        message = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
        assert verdict.message == f"Pod was rejected: {message}"


def tainted(effect: str) -> dict[str, Any]:
    return node() | {"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}}


@pytest.mark.parametrize(
    ("toleration", "effect", "admitted"),
    [
        (None, "NoSchedule", True),
        (None, "NoExecute", False),
        ({"operator": "Exists"}, "NoExecute", True),
        ({"key": "k", "operator": "Exists", "effect": "NoSchedule"}, "NoExecute", False),
        ({"key": "k", "value": "v"}, "NoExecute", True),
        ({"key": "k", "value": "w"}, "NoExecute", False),
    ],
)
def test_a_node_that_expels_takes_nobody_new(toleration: Any, effect: str, admitted: bool) -> None:
    one = pod({"name": "c"}, tolerations=[toleration] if toleration else [])
    verdict = admit(one, [], tainted(effect))
    assert (verdict is None) is admitted
    assert verdict is None or verdict.reason == "TaintToleration"
    static = one | {"metadata": one["metadata"] | {"annotations": {"kubernetes.io/config.source": "file"}}}
    assert admit(static, [], tainted(effect)) is None


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"nodeSelector": {"kubernetes.io/os": "windows"}}, "PodOSSelectorNodeLabelDoesNotMatch"),
        ({"os": {"name": "windows"}}, "PodOSNotSupported"),
        ({"securityContext": {"supplementalGroupsPolicy": "Strict"}}, "SupplementalGroupsPolicyNotSupported"),
        ({"os": {"name": "linux"}, "securityContext": {"supplementalGroupsPolicy": "Merge"}}, ""),
    ],
)
def test_pods_for_other_machines(spec: dict[str, Any], reason: str) -> None:
    verdict = admit(pod({"name": "c"}, **spec), [], node())
    assert (verdict.reason if verdict is not None else "") == reason
    able = node()
    able["status"]["features"] = {"supplementalGroupsPolicy": True}
    strict = pod({"name": "c"}, securityContext={"supplementalGroupsPolicy": "Strict"})
    assert admit(strict, [], able) is None


def test_a_profile_needs_apparmor() -> None:
    confined = pod({"name": "c", "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}})
    verdict = admit_apparmor(confined, enabled=False)
    assert verdict is not None
    assert (verdict.reason, verdict.message) == (
        "AppArmor",
        "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host",
    )
    assert admit_apparmor(confined, enabled=True) is None
    free = pod({"name": "c"}, securityContext={"appArmorProfile": {"type": "Unconfined"}})
    assert admit_apparmor(free, enabled=False) is None


LINES = [
    b"2026-11-23T05:00:00.000000001Z stdout F one",
    b"2026-11-23T05:00:01.000000001Z stdout P two ",
    b"2026-11-23T05:00:02.000000001Z stdout F halves",
    b"2026-11-23T05:00:03.000000001Z stderr F three",
]


def test_log_lines() -> None:
    assert b"".join(LogFilter(LogOptions()).take(LINES)) == b"one\ntwo halves\nthree\n"
    stamped = b"".join(LogFilter(LogOptions(timestamps=True)).take(LINES)).splitlines()
    assert stamped[1] == b"2026-11-23T05:00:01.000000001Z two halves"
    assert len(list(LogFilter(LogOptions()).take([b"damaged", b""]))) == 0


@pytest.mark.parametrize(("lines", "expected"), [(0, b""), (1, b"three\n"), (2, b"two halves\nthree\n"), (9, None)])
def test_tail(lines: int, expected: bytes | None) -> None:
    data = b"".join(line + b"\n" for line in LINES)
    tail = data[tail_start(data, lines) :]
    shown = b"".join(LogFilter(LogOptions()).take(tail.split(b"\n")[:-1]))
    assert shown == (b"one\ntwo halves\nthree\n" if expected is None else expected)


@given(st.lists(st.binary(max_size=20)), st.integers(0, 50))
def test_a_budget_is_kept(parts: list[bytes], limit: int) -> None:
    budget = Budget(limit)
    assert b"".join(budget.take(part) for part in parts) == b"".join(parts)[:limit]


def test_status_patches_remove_what_is_gone() -> None:
    assert status_patch({"a": 1, "b": 2}, {"a": 1, "c": 3}) == {"c": 3, "b": None}
    assert status_patch({"a": 1}, {"a": 1}) == {}


CONDITIONS = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from("ABC"), "status": st.sampled_from(("True", "False"))},
        optional={"reason": st.sampled_from("xy"), "lastProbeTime": st.none()},
    ),
    max_size=3,
    unique_by=lambda one: one["type"],
)
STATUSES = st.fixed_dictionaries(
    {"conditions": CONDITIONS},
    optional={
        "phase": st.sampled_from(("Pending", "Running")),
        "podIPs": st.lists(st.fixed_dictionaries({"ip": st.sampled_from("123")}), unique_by=lambda one: one["ip"]),
        "containerStatuses": st.lists(st.fixed_dictionaries({"name": st.sampled_from("cd")}), max_size=2),
    },
)
FOREIGN = {"type": "example.com/gate", "status": "True"}


def _stored(status: Object) -> Object:
    text = {**status, "conditions": [{k: v for k, v in one.items() if v is not None} for one in status["conditions"]]}
    return {name: value for name, value in text.items() if value or name == "conditions"}


@given(STATUSES, STATUSES)
def test_a_status_patch_leads_to_the_status_and_leaves_what_another_wrote(old: Object, new: Object) -> None:
    there = {"status": _stored(old) | {"conditions": [*_stored(old)["conditions"], FOREIGN]}}
    found = strategic_merge(PODS, there, {"status": status_patch(old, new)})["status"]
    assert FOREIGN in found["conditions"]
    mine = _stored(found | {"conditions": [one for one in found["conditions"] if one != FOREIGN]})
    assert alike(mine, _stored(new))
    assert alike(new, {**new, "conditions": new["conditions"][::-1]})


def test_flags() -> None:
    assert parse_taint("k=v:NoSchedule") == {"key": "k", "value": "v", "effect": "NoSchedule"}
    assert parse_taint("k:NoExecute") == {"key": "k", "effect": "NoExecute"}
    assert parse_pairs("cpu=2, memory=4Gi") == {"cpu": "2", "memory": "4Gi"}
    assert parse_pairs("role=") == {"role": ""}
    for bad in ("k", "k:Sometimes"):
        with pytest.raises(ValueError, match="invalid taint"):
            parse_taint(bad)
