"""Creation, update, deletion and admission as pure functions."""

import copy
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import admission
from raykube.apiserver.core.options import DeleteOptions, delete_options
from raykube.apiserver.core.preparation import prepare_create, prepare_update, qos_class
from raykube.apiserver.core.strategy import Draw, for_create, for_delete, for_update, is_finished
from raykube.base.metrics import Registry

NOW = 1_800_000_000.0
PODS = builtin("v1", "Pod")
DEPLOYMENTS = builtin("apps/v1", "Deployment")
MAPS = builtin("v1", "ConfigMap")
random_source = random.Random(1)
DRAW = Draw(random_source.randbytes, random_source.randrange)


def pod(node: str = "", **metadata: object) -> dict:
    own = {"name": "p", "namespace": "d", "uid": "u", **metadata}
    spec = {"terminationGracePeriodSeconds": 30, **({"nodeName": node} if node else {})}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": own, "spec": spec}


def test_create_takes_nothing_from_the_client_that_is_the_servers() -> None:
    obj = {
        "metadata": {"generateName": "a-", "uid": "mine", "generation": 7, "deletionTimestamp": "x", "selfLink": "y"},
        "spec": {"replicas": 1},
        "status": {"replicas": 9},
    }
    for_create(DEPLOYMENTS, obj, NOW, DRAW)
    prepare_create(DEPLOYMENTS, obj)
    metadata = obj["metadata"]
    assert metadata["uid"] != "mine" and metadata["generation"] == 1
    assert metadata["creationTimestamp"] == "2027-01-15T08:00:00Z"
    assert "deletionTimestamp" not in metadata and "selfLink" not in metadata
    assert metadata["name"].startswith("a-") and len(metadata["name"]) == 7
    assert obj["status"] == {}


def test_a_resource_version_is_refused_at_creation() -> None:
    with pytest.raises(ApiError, match="resourceVersion should not be set"):
        for_create(MAPS, {"metadata": {"name": "a", "resourceVersion": "1"}}, NOW, DRAW)


def deployment(wanted: int, generation: int, seen: int) -> dict:
    metadata = {"name": "d", "namespace": "n", "uid": "u", "creationTimestamp": "t", "generation": generation}
    head = {"kind": "Deployment", "apiVersion": "apps/v1", "metadata": metadata}
    return {**head, "spec": {"replicas": wanted}, "status": {"replicas": seen}}


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.sampled_from(["", "status"]))
def test_spec_and_status_are_written_apart(before, after, seen, subresource) -> None:
    old = deployment(before, 5, 1)
    new = deployment(after, 99, seen)
    new["metadata"]["creationTimestamp"] = "forged"
    kept = copy.deepcopy(old)
    for_update(DEPLOYMENTS, new, old, subresource)
    assert old == kept
    assert new["metadata"]["creationTimestamp"] == "t"
    if subresource:
        assert (new["spec"], new["status"], new["metadata"]["generation"]) == (old["spec"], {"replicas": seen}, 5)
    else:
        assert (new["spec"]["replicas"], new["status"]) == (after, {"replicas": 1})
        assert new["metadata"]["generation"] == (5 if after == before else 6)


def test_another_uid_is_a_conflict() -> None:
    with pytest.raises(ApiError, match="UID in precondition: other, UID in object meta: u"):
        for_update(PODS, pod(uid="other"), pod())


def test_no_finalizers_are_added_to_what_is_being_deleted() -> None:
    old = pod(deletionTimestamp="2027-01-15T08:00:00Z", finalizers=["a/b"])
    for_update(PODS, pod(finalizers=[]), old)
    with pytest.raises(ApiError, match="no new finalizers can be added"):
        for_update(PODS, pod(finalizers=["a/b", "c/d"]), old)


def test_string_data_becomes_data() -> None:
    secret = {"metadata": {"name": "s", "uid": "u"}, "stringData": {"a": "b"}}
    prepare_create(builtin("v1", "Secret"), secret)
    assert (secret["data"], "stringData" in secret) == ({"a": "Yg=="}, False)
    prepare_update(builtin("v1", "Secret"), secret | {"stringData": {"a": "c"}}, secret)


def test_a_gated_pod_says_why_nobody_schedules_it() -> None:
    gated = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [], "schedulingGates": [{"name": "a/b"}]}}
    prepare_create(PODS, gated)
    (condition,) = gated["status"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "SchedulingGated")
    assert condition["message"] == "Scheduling is blocked due to non-empty scheduling gates"
    plain = {"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": []}}
    prepare_create(PODS, plain)
    assert "conditions" not in plain["status"]


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
        ({"requests": {"example.com/gpu": "1"}}, "BestEffort"),
    ],
)
def test_qos(resources, expected) -> None:
    assert qos_class({"containers": [{"name": "c", "resources": resources}]}) == expected


# -- deletion


def test_pods_that_nobody_runs_go_at_once() -> None:
    assert for_delete(PODS, pod(), DeleteOptions(), NOW).marked is None
    ended = pod("n") | {"status": {"phase": "Succeeded"}}
    assert for_delete(PODS, ended, DeleteOptions(), NOW).marked is None
    assert for_delete(PODS, pod("n"), DeleteOptions(grace_s=0), NOW).marked is None


def test_a_running_pod_gets_its_grace_which_only_shrinks() -> None:
    first = for_delete(PODS, pod("n"), DeleteOptions(), NOW).marked
    assert first is not None
    assert first["metadata"]["deletionTimestamp"] == "2027-01-15T08:00:30Z"
    assert first["metadata"]["deletionGracePeriodSeconds"] == 30
    assert not is_finished(PODS, first)
    again = for_delete(PODS, first, DeleteOptions(grace_s=60), NOW + 1)
    assert again.unchanged
    shorter = for_delete(PODS, first, DeleteOptions(grace_s=10), NOW + 1).marked
    assert shorter is not None
    assert shorter["metadata"]["deletionTimestamp"] == "2027-01-15T08:00:10Z"
    assert for_delete(PODS, shorter, DeleteOptions(grace_s=0), NOW + 2).marked is None
    assert (
        for_delete(PODS, pod("n"), DeleteOptions(grace_s=-5), NOW).marked["metadata"]["deletionGracePeriodSeconds"] == 1
    )


def test_a_pod_with_a_finalizer_stays_until_both_are_over() -> None:
    marked = for_delete(PODS, pod("n", finalizers=["a/b"]), DeleteOptions(grace_s=0), NOW).marked
    assert marked is not None and marked["metadata"]["deletionGracePeriodSeconds"] == 0
    assert not is_finished(PODS, marked)
    marked["metadata"]["finalizers"] = []
    assert is_finished(PODS, marked)


@pytest.mark.parametrize(
    ("policy", "before", "after"),
    [
        ("", ["x/y"], ["x/y"]),
        ("Foreground", [], ["foregroundDeletion"]),
        ("Foreground", ["orphan", "x/y"], ["x/y", "foregroundDeletion"]),
        ("Orphan", ["foregroundDeletion"], ["orphan"]),
        ("Background", ["foregroundDeletion", "x/y"], ["x/y"]),
        ("Background", ["orphan"], None),
    ],
)
def test_propagation_becomes_finalizers(policy, before, after) -> None:
    obj = {"metadata": {"name": "a", "namespace": "d", "uid": "u", "finalizers": before}}
    marked = for_delete(MAPS, obj, DeleteOptions(propagation=policy), NOW).marked
    assert (marked["metadata"]["finalizers"] if marked else None) == after
    assert obj["metadata"]["finalizers"] == before


def test_delete_options_are_checked() -> None:
    read = delete_options
    assert read({"gracePeriodSeconds": 5}, {"gracePeriodSeconds": "9"}).grace_s == 5
    assert read({}, {"orphanDependents": "true"}).propagation == "Orphan"
    assert read({"preconditions": {"uid": "u", "resourceVersion": "3"}}, {}).resource_version == "3"
    for body in (
        {"orphanDependents": True, "propagationPolicy": "Background"},
        {"propagationPolicy": "x"},
        {"gracePeriodSeconds": "5"},
    ):
        with pytest.raises(ApiError):
            read(body, {})


# -- admission


class Known(dict):
    """A View of what is in a dictionary."""

    def find(self, group: str, plural: str, namespace: str, name: str) -> dict | None:
        return self.get((plural, namespace, name))

    def every(self, group: str, plural: str, namespace: str = "") -> list[dict]:
        return [obj for (kind, _, _), obj in self.items() if kind == plural]


def admitted(spec: dict, known: Known | None = None, **metadata: object) -> dict:
    obj = {"metadata": {"name": "p", "namespace": "d", **metadata}, "spec": {"containers": [{"name": "c"}], **spec}}
    default = Known({("serviceaccounts", "d", "default"): {"metadata": {"name": "default"}}})
    admission.pod(PODS, obj, Known(default | (known or {})), DRAW, admission.DefaultTolerations())
    return obj["spec"]


def test_tolerations_are_added_only_where_none_says_otherwise() -> None:
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
    assert [each["tolerationSeconds"] for each in admitted({"tolerations": [own]})["tolerations"]] == [5, 300]
    everything = {"operator": "Exists"}
    assert admitted({"tolerations": [everything]})["tolerations"] == [everything]


def test_tokens_are_mounted_unless_refused_or_there() -> None:
    spec = admitted({"initContainers": [{"name": "i"}]})
    (volume,) = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert all(c["volumeMounts"][0]["name"] == volume["name"] for c in spec["containers"] + spec["initContainers"])
    assert "volumes" not in admitted({"automountServiceAccountToken": False})
    refuses = Known({("serviceaccounts", "d", "default"): {"metadata": {}, "automountServiceAccountToken": False}})
    assert "volumes" not in admitted({}, refuses)
    own = [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": admission.TOKEN_PATH}]}]
    assert "volumes" not in admitted({"containers": own})
    assert "volumes" not in admitted({}, annotations={"kubernetes.io/config.mirror": "x"})


def test_priority_comes_from_its_class() -> None:
    high = {"metadata": {"name": "high"}, "value": 7, "preemptionPolicy": "Never"}
    base = {"metadata": {"name": "base"}, "value": 3, "globalDefault": True}
    known = Known({("priorityclasses", "", "high"): high, ("priorityclasses", "", "base"): base})
    spec = admitted({"priorityClassName": "high"}, known)
    assert (spec["priority"], spec["preemptionPolicy"]) == (7, "Never")
    spec = admitted({}, known)
    assert (spec["priority"], spec["priorityClassName"]) == (3, "base")
    with pytest.raises(ApiError, match="must not be provided in pod spec"):
        admitted({"priority": 9})
    with pytest.raises(admission.Missing):
        admitted({"priorityClassName": "none"})


def test_a_runtime_class_adds_its_overhead_and_its_place() -> None:
    scheduling = {"nodeSelector": {"arch": "x"}, "tolerations": [{"key": "sandboxed", "operator": "Exists"}]}
    overhead = {"podFixed": {"cpu": "100m"}}
    known = Known({("runtimeclasses", "", "safe"): {"overhead": overhead, "scheduling": scheduling}})
    spec = admitted({"runtimeClassName": "safe", "nodeSelector": {"disk": "fast"}}, known)
    assert spec["overhead"] == {"cpu": "100m"}
    assert spec["nodeSelector"] == {"disk": "fast", "arch": "x"}
    assert scheduling["tolerations"][0] in spec["tolerations"]
    for wrong, why in (
        ({"overhead": {"cpu": "1"}}, "Pod.Spec.Overhead set without corresponding RuntimeClass defining Overhead"),
        ({"runtimeClassName": "safe", "overhead": {"cpu": "1"}}, "Pod's Overhead doesn't match RuntimeClass's defined"),
        ({"runtimeClassName": "safe", "nodeSelector": {"arch": "y"}}, "conflict: runtimeClass.scheduling.nodeSelector"),
    ):
        with pytest.raises(ApiError, match=why):
            admitted(wrong, known)
    with pytest.raises(admission.Missing):
        admitted({"runtimeClassName": "none"}, known)


def test_metrics_are_prometheus_text() -> None:
    registry = Registry()
    counter = registry.counter("a_total", "A.", ("x",))
    counter.add(('q"\n',), 1_000_000)
    histogram = registry.histogram("h", "H.", (), (0.1, 1.0))
    for value in (0.05, 0.5, 5):
        histogram.observe((), value)
    assert registry.render().splitlines() == [
        "# HELP a_total A.",
        "# TYPE a_total counter",
        'a_total{x="q\\"\\n"} 1000000',
        "# HELP h H.",
        "# TYPE h histogram",
        'h_bucket{le="0.1"} 1',
        'h_bucket{le="1"} 2',
        'h_bucket{le="+Inf"} 3',
        "h_sum 5.55",
        "h_count 3",
    ]


def test_the_server_counts_the_templates_of_a_daemon_set() -> None:
    kind = builtin("apps/v1", "DaemonSet")
    counted = "deprecated.daemonset.template.generation"

    def daemon_set(image: str, **annotations: str) -> dict:
        template = {"spec": {"containers": [{"name": "c", "image": image}]}}
        metadata = {"name": "d", "namespace": "n", "annotations": annotations}
        return {"kind": "DaemonSet", "apiVersion": "apps/v1", "metadata": metadata, "spec": {"template": template}}

    first = daemon_set("a")
    prepare_create(kind, first)
    assert first["metadata"]["annotations"] == {counted: "1"}
    moved = daemon_set("b", **{counted: "7"})
    prepare_update(kind, moved, first)
    assert moved["metadata"]["annotations"] == {counted: "2"}
    same = daemon_set("b", note="x")
    prepare_update(kind, same, moved)
    assert same["metadata"]["annotations"] == {counted: "2", "note": "x"}
    seen = daemon_set("b")
    prepare_update(kind, seen, same, "status")
    assert seen["metadata"]["annotations"] == {counted: "2"}
    odd = daemon_set("a", **{counted: "9" * 5000})  # no number that anybody would count on
    prepare_create(kind, odd)
    assert odd["metadata"]["annotations"] == {counted: "1"}


def claim(size: str, phase: str = "Bound", of: str = "disks") -> dict:
    metadata = {"name": "c", "namespace": "d"}
    spec = {"resources": {"requests": {"storage": size}}, "storageClassName": of}
    return {"metadata": metadata, "spec": spec, "status": {"phase": phase}}


RESIZE = (
    'persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can be resized and the storageclass '
    "that provisions the pvc must support resize"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (claim("1Gi"), claim("1024Mi"), ""),
        (claim("2Gi"), claim("1Gi", of="tapes"), ""),
        (claim("1Gi"), claim("2Gi"), ""),
        (claim("1Gi", of="tapes"), claim("2Gi", of="tapes"), RESIZE),
        (claim("1Gi", of="gone"), claim("2Gi", of="gone"), RESIZE),
        (claim("1Gi", of=""), claim("2Gi", of=""), RESIZE),
        (claim("1Gi", of="tapes"), claim("2Gi", of="disks"), RESIZE),
        (
            claim("1Gi", "Pending"),
            claim("2Gi", "Pending"),
            'persistentvolumeclaims "c" is forbidden: Only bound persistent volume claims can be expanded',
        ),
    ],
)
def test_claims_grow_where_their_class_lets_them(old: dict, new: dict, message: str) -> None:
    known = Known(
        {
            ("storageclasses", "", "disks"): {"metadata": {"name": "disks"}, "allowVolumeExpansion": True},
            ("storageclasses", "", "tapes"): {"metadata": {"name": "tapes"}},
        }
    )
    refusal = ""
    try:
        admission.claim_growth(builtin("v1", "PersistentVolumeClaim"), new, old, known)
    except admission.Missing as missing:  # the class may not have arrived yet
        refusal = str(missing.error)
    except ApiError as error:
        refusal = str(error)
    assert refusal == message
