"""Defaults as upstream sets them."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import defaults, resources, schema
from raykube.api.errors import ApiError
from raykube.api.pod_defaults import pull_policy
from raykube.api.resources import builtin

CONTAINER = {"name": "c", "image": "nginx:1"}
FULL_CONTAINER = {
    "name": "c",
    "image": "nginx:1",
    "imagePullPolicy": "IfNotPresent",
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
FULL_POD_SPEC = {
    "containers": [FULL_CONTAINER],
    "restartPolicy": "Always",
    "dnsPolicy": "ClusterFirst",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
}
TEMPLATE = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [CONTAINER]}}


def defaulted(api_version: str, kind: str, **fields: Any) -> dict[str, Any]:
    row = builtin(api_version, kind)
    obj = {"kind": kind, "apiVersion": api_version, "metadata": {"name": "x"}, **copy.deepcopy(fields)}
    defaults.apply_defaults(row, obj)
    assert schema.conform(row, obj) == [], "a default is a field of the schema"
    once = copy.deepcopy(obj)
    defaults.apply_defaults(row, obj)
    assert obj == once
    return obj


def test_pod() -> None:
    obj = defaulted("v1", "Pod", spec={"containers": [CONTAINER]})
    assert obj["spec"] == {**FULL_POD_SPEC, "enableServiceLinks": True}


def test_a_pod_asks_for_what_it_is_limited_to() -> None:
    limited = {**CONTAINER, "resources": {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}}
    obj = defaulted("v1", "Pod", spec={"containers": [limited], "initContainers": [limited]})
    for group in ("containers", "initContainers"):
        assert obj["spec"][group][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}


def test_what_is_set_stays() -> None:
    spec = {
        "containers": [{**CONTAINER, "imagePullPolicy": "Never", "terminationMessagePolicy": "FallbackToLogsOnError"}],
        "restartPolicy": "Never",
        "dnsPolicy": "None",
        "terminationGracePeriodSeconds": 0,
        "enableServiceLinks": False,
        "schedulerName": "mine",
    }
    obj = defaulted("v1", "Pod", spec=spec)
    for name in ("restartPolicy", "dnsPolicy", "terminationGracePeriodSeconds", "enableServiceLinks", "schedulerName"):
        assert obj["spec"][name] == spec[name]
    assert obj["spec"]["containers"][0]["imagePullPolicy"] == "Never"


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("host:5000/nginx", "Always"),
        ("host:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0", "IfNotPresent"),
        ("nginx:latest@sha256:0", "IfNotPresent"),
    ],
)
def test_pull_policy(image: str, policy: str) -> None:
    assert pull_policy(image) == policy


def test_probes_ports_volumes_and_references() -> None:
    container = {
        **CONTAINER,
        "ports": [{"containerPort": 80}],
        "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 3},
        "readinessProbe": {"grpc": {"port": 1}},
        "lifecycle": {"preStop": {"httpGet": {"port": 80, "path": "/x"}}},
        "env": [
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        ],
    }
    volumes = [
        {"name": "a"},
        {"name": "b", "secret": {"secretName": "s"}},
        {"name": "c", "configMap": {"name": "c", "defaultMode": 256}},
        {"name": "d", "hostPath": {"path": "/"}},
        {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        {"name": "f", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    obj = defaulted("v1", "Pod", spec={"containers": [container], "volumes": volumes, "hostNetwork": True})
    full = obj["spec"]["containers"][0]
    assert full["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    assert full["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "periodSeconds": 3,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 3,
    }
    assert full["readinessProbe"]["grpc"] == {"port": 1, "service": ""}
    assert full["lifecycle"]["preStop"]["httpGet"] == {"port": 80, "path": "/x", "scheme": "HTTP"}
    assert full["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert full["env"][1]["valueFrom"]["resourceFieldRef"]["divisor"] == "0"
    a, b, c, d, e, f = obj["spec"]["volumes"]
    assert a["emptyDir"] == {}
    assert b["secret"]["defaultMode"] == 420
    assert c["configMap"]["defaultMode"] == 256
    assert d["hostPath"] == {"path": "/", "type": ""}
    assert e["projected"] == {
        "defaultMode": 420,
        "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}],
    }
    assert f["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"] == "v1"


def test_deployment() -> None:
    obj = defaulted("apps/v1", "Deployment", spec={"template": TEMPLATE, "selector": {"matchLabels": {"a": "b"}}})
    assert obj["spec"] == {
        "replicas": 1,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": FULL_POD_SPEC},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
    }
    obj = defaulted(
        "apps/v1", "Deployment", spec={"replicas": 0, "strategy": {"type": "Recreate"}, "template": TEMPLATE}
    )
    assert obj["spec"]["strategy"] == {"type": "Recreate"}
    assert obj["spec"]["replicas"] == 0


@pytest.mark.parametrize(
    ("given", "completions", "parallelism"),
    [
        ({}, 1, 1),
        ({"completions": 5}, 5, 1),
        ({"parallelism": 3}, None, 3),
        ({"completions": 5, "parallelism": 0}, 5, 0),
    ],
)
def test_job(given: dict[str, int], completions: int | None, parallelism: int) -> None:
    obj = defaulted("batch/v1", "Job", spec={"template": TEMPLATE, **given})
    assert obj["spec"].get("completions") == completions
    assert obj["spec"]["parallelism"] == parallelism
    assert obj["spec"]["backoffLimit"] == 6
    assert obj["spec"]["completionMode"] == "NonIndexed"
    assert obj["spec"]["suspend"] is False
    assert obj["metadata"]["labels"] == {"a": "b"}


def test_service() -> None:
    obj = defaulted(
        "v1", "Service", spec={"ports": [{"port": 80}, {"port": 81, "targetPort": "http", "protocol": "UDP"}]}
    )
    assert obj["spec"] == {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        "ports": [
            {"port": 80, "targetPort": 80, "protocol": "TCP"},
            {"port": 81, "targetPort": "http", "protocol": "UDP"},
        ],
    }
    obj = defaulted("v1", "Service", spec={"type": "LoadBalancer", "sessionAffinity": "ClientIP"})
    assert obj["spec"]["externalTrafficPolicy"] == "Cluster"
    assert obj["spec"]["allocateLoadBalancerNodePorts"] is True
    assert obj["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert "internalTrafficPolicy" not in defaulted("v1", "Service", spec={"type": "ExternalName"})["spec"]


def test_the_rest() -> None:
    assert defaulted("v1", "Secret")["type"] == "Opaque"
    secret = defaulted("v1", "Secret", data={"a": "YQ==", "b": "Yg=="}, stringData={"b": "c"})
    assert secret["data"] == {"a": "YQ==", "b": "Yw=="}
    assert "stringData" not in secret
    assert defaulted("v1", "Namespace")["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    node = defaulted("v1", "Node", status={"capacity": {"cpu": "2", "pods": "10"}, "allocatable": {"cpu": "1"}})
    assert node["status"]["allocatable"] == {"cpu": "1", "pods": "10"}
    binding = defaulted(
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        roleRef={"kind": "Role", "name": "r"},
        subjects=[{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "name": "s", "namespace": "n"}],
    )
    assert binding["roleRef"]["apiGroup"] == "rbac.authorization.k8s.io"
    assert [subject.get("apiGroup") for subject in binding["subjects"]] == ["rbac.authorization.k8s.io", None]
    cron = defaulted(
        "batch/v1", "CronJob", spec={"schedule": "* * * * *", "jobTemplate": {"spec": {"template": TEMPLATE}}}
    )
    assert cron["spec"]["concurrencyPolicy"] == "Allow"
    assert cron["spec"]["jobTemplate"]["spec"]["template"]["spec"] == FULL_POD_SPEC
    daemon = defaulted("apps/v1", "DaemonSet", spec={"template": TEMPLATE})
    assert daemon["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    sets = defaulted(
        "apps/v1", "StatefulSet", spec={"template": TEMPLATE, "volumeClaimTemplates": [{"metadata": {"name": "v"}}]}
    )
    assert sets["spec"]["podManagementPolicy"] == "OrderedReady"
    assert sets["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] == "Filesystem"
    policy = defaulted("networking.k8s.io/v1", "NetworkPolicy", spec={"egress": [{"ports": [{"port": 1}]}]})
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    limits = defaulted("v1", "LimitRange", spec={"limits": [{"type": "Container", "max": {"cpu": "2"}}]})
    assert limits["spec"]["limits"][0]["defaultRequest"] == {"cpu": "2"}


def test_empty_objects_of_every_kind_take_defaults() -> None:
    for row in resources.all_resources():
        defaulted(row.api_version, row.kind)


@given(st.sampled_from(resources.all_resources()), st.data())
def test_defaults_survive_any_conforming_object(row: resources.Resource, data: st.DataObject) -> None:
    hole = st.sampled_from([{}, [], [{}], {"spec": {}}, {"template": {}}, {"containers": [{}]}, {"ports": [{}]}])
    names = st.sampled_from(
        ["template", "ports", "limits", "strategy", "webhooks", "subsets", "updateStrategy", "devices"]
    )
    spec = data.draw(st.dictionaries(names, hole, max_size=4))
    obj: dict[str, Any] = {"kind": row.kind, "apiVersion": row.api_version, "metadata": {}, "spec": spec}
    try:
        schema.conform(row, obj)
    except ApiError:
        return
    defaults.apply_defaults(row, obj)
    again = copy.deepcopy(obj)
    defaults.apply_defaults(row, again)
    assert again == obj
