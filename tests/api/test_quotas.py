"""What objects use of quotas, and which quotas cover them."""

from typing import Any

import pytest

from raykube.api import pod_resources, quotas
from raykube.api.quotas import CLAIMS, PODS, RESOURCE_CLAIMS, SERVICES


def container(name: str = "c", requests: Any = None, limits: Any = None, **fields: Any) -> dict[str, Any]:
    return {"name": name, "resources": {"requests": requests or {}, "limits": limits or {}}, **fields}


def pod(*containers: dict[str, Any], status: Any = None, meta: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "p", **(meta or {})},
        "spec": {"containers": list(containers), **spec},
        "status": status,
    }


def test_a_pod_asks_for_the_larger_of_its_containers_and_its_start() -> None:
    sidecar = container("s", {"cpu": "100m"}, restartPolicy="Always")
    first, second = container("i", {"cpu": "1500m"}), container("j", {"memory": "1Gi"})
    spec = pod(
        container("a", {"cpu": "500m", "memory": "64Mi"}),
        container("b", {"cpu": "1"}),
        initContainers=[sidecar, first, second],
        overhead={"cpu": "50m"},
    )["spec"]
    assert pod_resources.pod_requests(spec) == {"cpu": "1650m", "memory": "1Gi"}
    assert pod_resources.pod_requests(spec, overhead=False) == {"cpu": "1600m", "memory": "1Gi"}
    spec["resources"] = {"requests": {"cpu": "3"}}
    assert pod_resources.pod_requests(spec)["cpu"] == "3050m", "what is said of the whole pod stands above the sum"


def test_overhead_is_added_to_limits_that_there_are() -> None:
    spec = pod(container(limits={"cpu": "1"}), overhead={"cpu": "100m", "memory": "1Mi"})["spec"]
    assert pod_resources.pod_limits(spec) == {"cpu": "1100m"}


def test_usage_of_a_pod() -> None:
    asked = {"cpu": "1", "memory": "1Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "2"}
    found = quotas.usage(PODS, pod(container(requests=asked, limits={"cpu": "2", "example.com/gpu": "2"})))
    assert found == {
        "count/pods": "1",
        "pods": "1",
        "cpu": "1",
        "requests.cpu": "1",
        "limits.cpu": "2",
        "memory": "1Gi",
        "requests.memory": "1Gi",
        "hugepages-2Mi": "4Mi",
        "requests.hugepages-2Mi": "4Mi",
        "requests.example.com/gpu": "2",
    }
    ended = pod(container(requests=asked), status={"phase": "Failed"})
    assert quotas.usage(PODS, ended) == {"count/pods": "1"}
    meta = {"deletionTimestamp": "2030-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
    lost = pod(container(), meta=meta)
    end = quotas.ends_at(lost)
    assert end is not None
    assert "pods" in quotas.usage(PODS, lost, end) and "pods" not in quotas.usage(PODS, lost, end + 1)


def test_usage_of_claims_is_counted_by_class_too() -> None:
    claim = {
        "metadata": {"name": "c"},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1.5"}}},
    }
    assert quotas.usage(CLAIMS, claim) == {
        "count/persistentvolumeclaims": "1",
        "persistentvolumeclaims": "1",
        "requests.storage": "2",
        "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
        "fast.storageclass.storage.k8s.io/requests.storage": "2",
    }
    claim["status"] = {"allocatedResources": {"storage": "1Gi"}}
    assert quotas.usage(CLAIMS, claim)["requests.storage"] == "1Gi"


@pytest.mark.parametrize(
    ("spec", "ports", "balancers"),
    [
        ({"type": "ClusterIP", "ports": [{"port": 1}]}, "0", "0"),
        ({"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}, "2", "0"),
        ({"type": "LoadBalancer", "ports": [{"port": 1}]}, "1", "1"),
        ({"type": "LoadBalancer", "ports": [{"port": 1}], "allocateLoadBalancerNodePorts": False}, "0", "1"),
    ],
)
def test_usage_of_services(spec: dict[str, Any], ports: str, balancers: str) -> None:
    found = quotas.usage(SERVICES, {"metadata": {}, "spec": spec})
    assert (found["services"], found["services.nodeports"], found["services.loadbalancers"]) == ("1", ports, balancers)


def test_usage_of_other_kinds_is_their_number() -> None:
    assert quotas.usage(("apps", "deployments"), {"metadata": {}}) == {"count/deployments.apps": "1"}
    assert quotas.usage(("", "secrets"), {"metadata": {}}) == {"count/secrets": "1", "secrets": "1"}
    requests = [
        {"exactly": {"deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2}},
        {
            "firstAvailable": [
                {"deviceClassName": "gpu", "count": 1},
                {"deviceClassName": "big", "allocationMode": "All"},
            ]
        },
    ]
    found = quotas.usage(RESOURCE_CLAIMS, {"metadata": {}, "spec": {"devices": {"requests": requests}}})
    assert found["gpu.deviceclass.resource.k8s.io/devices"] == "3"
    assert found["big.deviceclass.resource.k8s.io/devices"] == "32"


def test_names_belong_to_kinds() -> None:
    names = [
        "pods",
        "requests.storage",
        "services",
        "count/jobs.batch",
        "secrets",
        "requests.example.com/gpu",
        "count/pods",
    ]
    assert quotas.tracked(names, PODS) == ["pods", "requests.example.com/gpu", "count/pods"]
    assert quotas.tracked(names, CLAIMS) == ["requests.storage"]
    assert quotas.tracked(names, ("batch", "jobs")) == ["count/jobs.batch"]
    assert quotas.tracked(names, ("", "secrets")) == ["secrets"]
    assert quotas.tracked(names, ("example.com", "secrets")) == []


def test_what_containers_have_to_say() -> None:
    silent = pod(container("b", {"cpu": "1"}), container("a"), initContainers=[container("i")])
    assert quotas.unspecified(["limits.cpu", "requests.cpu", "pods"], PODS, silent) == (
        "must specify limits.cpu for: a,b,i; requests.cpu for: a,i"
    )
    silent["spec"]["resources"] = {"requests": {"cpu": "1"}}
    assert quotas.unspecified(["requests.cpu"], PODS, silent) == ""


PRIORITY = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
NEAR = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x", "namespaces": ["n"]}]}}


@pytest.mark.parametrize(
    ("spec", "fields", "covered"),
    [
        ({}, {}, True),
        ({"scopes": ["Terminating"]}, {"activeDeadlineSeconds": 0}, True),
        ({"scopes": ["NotTerminating"]}, {"activeDeadlineSeconds": 5}, False),
        ({"scopes": ["BestEffort"]}, {}, True),
        ({"scopes": ["BestEffort", "Terminating"]}, {}, False),
        ({"scopes": ["PriorityClass"]}, {"priorityClassName": "x"}, True),
        ({"scopeSelector": {"matchExpressions": [PRIORITY]}}, {"priorityClassName": "high"}, True),
        ({"scopeSelector": {"matchExpressions": [PRIORITY]}}, {"priorityClassName": "low"}, False),
        ({"scopeSelector": {"matchExpressions": [PRIORITY | {"operator": "NotIn"}]}}, {}, True),
        ({"scopes": ["CrossNamespacePodAffinity"]}, {"affinity": NEAR}, True),
        ({"scopes": ["CrossNamespacePodAffinity"]}, {}, False),
    ],
)
def test_scopes(spec: dict[str, Any], fields: dict[str, Any], covered: bool) -> None:
    assert quotas.in_scope(spec, PODS, pod(container(), **fields)) == covered
    if spec:
        assert not quotas.in_scope(spec, SERVICES, {"metadata": {}, "spec": {}}), "scopes are of pods"


def test_sums_are_written_like_the_first_that_is_not_zero() -> None:
    usages = [{"memory": "0"}, {"memory": "512Mi"}, {"memory": "500M", "cpu": "100m"}]
    assert quotas.total(usages, ["memory", "pods"]) == {"memory": "1036870912", "pods": "0"}
    assert quotas.total([{"memory": "512Mi"}, {"memory": "512Mi"}], ["memory"]) == {"memory": "1Gi"}
