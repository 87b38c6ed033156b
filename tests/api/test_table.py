"""Tables: pods' every STATUS, ages, and one row of each kind that people look at."""

from typing import Any

import pytest

from raykube.api import resources, table
from raykube.api.table import pods
from raykube.api.table.ages import age, human_duration
from raykube.base.clock import rfc3339

NOW = 1_800_000_000.0
AGO_5M = rfc3339(NOW - 300)
META = {"name": "x", "namespace": "default", "creationTimestamp": rfc3339(NOW - 3700)}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-0.5, "0s"),
        (0, "0s"),
        (119.9, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (600, "10m"),
        (10799, "179m"),
        (10800, "3h"),
        (11400, "3h10m"),
        (8 * 3600, "8h"),
        (47 * 3600, "47h"),
        (48 * 3600, "2d"),
        (50 * 3600, "2d2h"),
        (8 * 86400, "8d"),
        (729 * 86400, "729d"),
        (730 * 86400, "2y"),
        (800 * 86400, "2y70d"),
        (9 * 365 * 86400, "9y"),
    ],
)
def test_human_durations(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_age_of_nothing() -> None:
    assert age(None, NOW) == "<unknown>"
    assert age("soon", NOW) == "<unknown>"
    assert age(AGO_5M, NOW) == "5m"


def waiting(reason: str, restarts: int = 0) -> dict[str, Any]:
    return {"name": "c", "state": {"waiting": {"reason": reason}}, "restartCount": restarts}


def ended(code: int, reason: str = "", signal: int = 0) -> dict[str, Any]:
    return {"name": "c", "state": {"terminated": {"exitCode": code, "reason": reason, "signal": signal}}}


RUNNING = {"name": "c", "ready": True, "state": {"running": {}}, "restartCount": 0}
CRASHED = {
    **waiting("CrashLoopBackOff", 3),
    "lastState": {"terminated": {"exitCode": 1, "finishedAt": AGO_5M}},
}


def pod(phase: str, containers: list[Any] | None = None, inits: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    spec = {
        "containers": [{"name": f"c{index}"} for index in range(max(1, len(containers or [])))],
        "initContainers": more.pop("init_spec", [{"name": f"i{index}"} for index in range(len(inits or []))]),
    }
    metadata = {**META, **more.pop("metadata", {})}
    status = {"phase": phase, "containerStatuses": containers or [], "initContainerStatuses": inits or [], **more}
    return {"metadata": metadata, "spec": spec, "status": status}


DELETED = {"deletionTimestamp": AGO_5M}
SIDECAR = [{"name": "c", "restartPolicy": "Always"}]


@pytest.mark.parametrize(
    ("obj", "ready", "status", "restarts"),
    [
        (pod("Pending"), "0/1", "Pending", "0"),
        (pod("Pending", [waiting("ContainerCreating")]), "0/1", "ContainerCreating", "0"),
        (pod("Running", [RUNNING]), "1/1", "Running", "0"),
        (pod("Running", [RUNNING, CRASHED]), "1/2", "CrashLoopBackOff", "3 (5m ago)"),
        (pod("Succeeded", [ended(0, "Completed")]), "0/1", "Completed", "0"),
        (pod("Failed", [ended(1, "Error")]), "0/1", "Error", "0"),
        (pod("Failed", [ended(137)]), "0/1", "ExitCode:137", "0"),
        (pod("Failed", [ended(0, "", 9)]), "0/1", "Signal:9", "0"),
        (pod("Failed", reason="Evicted"), "0/1", "Evicted", "0"),
        (pod("Running", [ended(0, "Completed"), RUNNING]), "1/2", "NotReady", "0"),
        (
            pod("Running", [ended(0, "Completed"), RUNNING], conditions=[{"type": "Ready", "status": "True"}]),
            "1/2",
            "Running",
            "0",
        ),
        (pod("Pending", inits=[waiting("PodInitializing"), waiting("PodInitializing")]), "0/1", "Init:0/2", "0"),
        (pod("Pending", inits=[ended(0), {"name": "c", "state": {"running": {}}}]), "0/1", "Init:1/2", "0"),
        (pod("Pending", inits=[waiting("ImagePullBackOff")]), "0/1", "Init:ImagePullBackOff", "0"),
        (pod("Pending", inits=[ended(2)]), "0/1", "Init:ExitCode:2", "0"),
        (pod("Pending", inits=[ended(2, "Error")]), "0/1", "Init:Error", "0"),
        (pod("Pending", [waiting("PodInitializing")], [ended(0)]), "0/1", "PodInitializing", "0"),
        (
            pod("Running", [RUNNING], [{**RUNNING, "started": True, "restartCount": 2}], init_spec=SIDECAR),
            "2/2",
            "Running",
            "2",
        ),
        (pod("Running", [RUNNING], metadata=DELETED), "1/1", "Terminating", "0"),
        (pod("Succeeded", [ended(0, "Completed")], metadata=DELETED), "0/1", "Completed", "0"),
        (pod("Running", [RUNNING], metadata=DELETED, reason="NodeLost"), "1/1", "Unknown", "0"),
        (
            pod("Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]),
            "0/1",
            "SchedulingGated",
            "0",
        ),
    ],
)
def test_pod_status(obj: dict[str, Any], ready: str, status: str, restarts: str) -> None:
    assert pods.summary(obj, NOW) == (ready, status, restarts)


TEMPLATE = {
    "spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}], "nodeSelector": {"k": "v"}}
}
WIDE = ["a,b", "i:1,j"]
SELECTOR = {"matchLabels": {"app": "x"}}
AGE = "61m"
NODE = {
    "metadata": {**META, "labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "edge"}},
    "spec": {"unschedulable": True},
    "status": {
        "conditions": [{"type": "Ready", "status": "Unknown"}],
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {"kubeletVersion": "v1.36.0", "osImage": "Debian"},
    },
}
EVENT = {
    "metadata": META,
    "lastTimestamp": AGO_5M,
    "firstTimestamp": META["creationTimestamp"],
    "type": "Normal",
    "reason": "Started",
    "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
    "source": {"component": "kubelet", "host": "n1"},
    "message": " hello ",
    "count": 4,
}
ROWS: list[tuple[str, str, dict[str, Any], list[Any]]] = [
    (
        "v1",
        "Node",
        NODE,
        ["NotReady,SchedulingDisabled", "control-plane,edge", AGE, "v1.36.0", "10.0.0.1", "<none>", "Debian"]
        + ["<unknown>"] * 2,
    ),
    (
        "apps/v1",
        "Deployment",
        {
            "spec": {"replicas": 3, "template": TEMPLATE, "selector": SELECTOR},
            "status": {"readyReplicas": 2, "updatedReplicas": 1},
        },
        ["2/3", 1, 0, AGE, *WIDE, "app=x"],
    ),
    (
        "apps/v1",
        "ReplicaSet",
        {"spec": {"replicas": 3, "template": TEMPLATE, "selector": SELECTOR}, "status": {"replicas": 2}},
        [3, 2, 0, AGE, *WIDE, "app=x"],
    ),
    ("apps/v1", "StatefulSet", {"spec": {"replicas": 0, "template": TEMPLATE}}, ["0/0", AGE, *WIDE]),
    (
        "apps/v1",
        "DaemonSet",
        {
            "spec": {"template": TEMPLATE, "selector": SELECTOR},
            "status": {"desiredNumberScheduled": 2, "numberReady": 1},
        },
        [2, 0, 1, 0, 0, "k=v", AGE, *WIDE, "app=x"],
    ),
    (
        "batch/v1",
        "Job",
        {
            "spec": {"completions": 5, "template": TEMPLATE, "selector": SELECTOR},
            "status": {"succeeded": 2, "startTime": AGO_5M},
        },
        ["Running", "2/5", "5m", AGE, *WIDE, "app=x"],
    ),
    (
        "batch/v1",
        "Job",
        {
            "spec": {"parallelism": 3, "template": TEMPLATE},
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        },
        ["Complete", "0/1 of 3", "", AGE, *WIDE, "<none>"],
    ),
    (
        "batch/v1",
        "CronJob",
        {"spec": {"schedule": "@daily", "suspend": False, "jobTemplate": {"spec": {"template": TEMPLATE}}}},
        ["@daily", "<none>", "False", 0, "<none>", AGE, *WIDE, "<none>"],
    ),
    (
        "v1",
        "Service",
        {
            "spec": {
                "clusterIP": "10.0.0.1",
                "ports": [{"port": 80, "nodePort": 30000}, {"port": 53, "protocol": "UDP"}],
                "type": "NodePort",
                "selector": {"b": "2", "a": "1"},
            }
        },
        ["NodePort", "10.0.0.1", "<none>", "80:30000/TCP,53/UDP", AGE, "a=1,b=2"],
    ),
    (
        "v1",
        "Service",
        {"spec": {"type": "LoadBalancer", "clusterIP": "None"}},
        ["LoadBalancer", "None", "<pending>", "<none>", AGE, "<none>"],
    ),
    (
        "v1",
        "Endpoints",
        {"subsets": [{"addresses": [{"ip": f"10.0.0.{each}"} for each in range(5)], "ports": [{"port": 80}]}]},
        ["10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more...", AGE],
    ),
    ("v1", "Endpoints", {}, ["<none>", AGE]),
    (
        "discovery.k8s.io/v1",
        "EndpointSlice",
        {"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [{"addresses": ["10.0.0.1"]}]},
        ["IPv4", "80", "10.0.0.1", AGE],
    ),
    ("v1", "ConfigMap", {"data": {"a": "1"}, "binaryData": {"b": "eA=="}}, [2, AGE]),
    ("v1", "Secret", {"type": "Opaque", "data": {"a": "eA=="}}, ["Opaque", 1, AGE]),
    ("v1", "ServiceAccount", {}, [0, AGE]),
    ("v1", "Namespace", {"status": {"phase": "Active"}}, ["Active", AGE]),
    ("coordination.k8s.io/v1", "Lease", {"spec": {"holderIdentity": "me"}}, ["me", AGE]),
    ("rbac.authorization.k8s.io/v1", "Role", {}, [META["creationTimestamp"]]),
    (
        "rbac.authorization.k8s.io/v1",
        "RoleBinding",
        {
            "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "User", "name": "u"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"}],
        },
        ["Role/r", AGE, "u", "", "n/s"],
    ),
    (
        "networking.k8s.io/v1",
        "Ingress",
        {"spec": {"rules": [{"host": "a"}], "tls": [{}]}},
        ["<none>", "a", "", "80, 443", AGE],
    ),
    ("policy/v1", "PodDisruptionBudget", {"spec": {"minAvailable": "50%"}}, ["50%", "N/A", 0, AGE]),
    (
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        {
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "maxReplicas": 3,
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}],
            }
        },
        ["Deployment/d", "cpu: <unknown>/80%", "<unset>", "3", 0, AGE],
    ),
    (
        "certificates.k8s.io/v1",
        "CertificateSigningRequest",
        {
            "spec": {"signerName": "s", "username": "u"},
            "status": {"conditions": [{"type": "Approved"}], "certificate": "x"},
        },
        [AGE, "s", "u", "<none>", "Approved,Issued"],
    ),
    (
        "v1",
        "PersistentVolumeClaim",
        {
            "spec": {"volumeName": "v", "storageClassName": "fast"},
            "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]},
        },
        ["Bound", "v", "1Gi", "RWO", "fast", "<unset>", AGE, "<unset>"],
    ),
]


@pytest.mark.parametrize(("api_version", "kind", "obj", "cells"), ROWS, ids=[row[1] for row in ROWS])
def test_rows(api_version: str, kind: str, obj: dict[str, Any], cells: list[Any]) -> None:
    resource = resources.builtin(api_version, kind)
    assert table.table_row(resource, {"metadata": META, **obj}, NOW) == ["x", *cells]


@pytest.mark.parametrize(("api_version", "shape"), [("v1", "old"), ("events.k8s.io/v1", "new")])
def test_events_of_either_shape(api_version: str, shape: str) -> None:
    obj = (
        EVENT
        if shape == "old"
        else {
            "metadata": META,
            "deprecatedLastTimestamp": AGO_5M,
            "deprecatedFirstTimestamp": META["creationTimestamp"],
            "type": "Normal",
            "reason": "Started",
            "regarding": EVENT["involvedObject"],
            "deprecatedSource": EVENT["source"],
            "note": "hello",
            "deprecatedCount": 4,
        }
    )
    assert table.table_row(resources.builtin(api_version, "Event"), obj, NOW) == [
        *("5m", "Normal", "Started", "pod/p", "spec.containers{c}", "kubelet, n1", "hello", "61m", 4, "x")
    ]


def test_every_resource_has_as_many_cells_as_columns_even_for_a_bare_object() -> None:
    for resource in resources.all_resources():
        columns = table.table_columns(resource)
        assert len(table.table_row(resource, {"metadata": META}, NOW)) == len(columns), resource.qualified
        assert all(column["description"] for column in columns), (resource.qualified, columns)
        assert [column["format"] for column in columns].count("name") == 1


def test_the_document() -> None:
    resource = resources.builtin("v1", "Pod")
    done = pod("Succeeded", [ended(0, "Completed")])
    document = table.table(resource, [done], NOW, metadata={"resourceVersion": "7"})
    assert (document["kind"], document["apiVersion"]) == ("Table", "meta.k8s.io/v1")
    assert document["metadata"] == {"resourceVersion": "7"}
    row = document["rows"][0]
    assert row["object"] == {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": done["metadata"],
    }
    assert row["conditions"][0]["reason"] == "Succeeded"
    assert "object" not in table.table(resource, [done], NOW, include_object="None")["rows"][0]
    assert table.table(resource, [done], NOW, include_object="Object")["rows"][0]["object"] is done
    assert table.table(resource, [done], NOW, with_columns=False)["columnDefinitions"] == []
