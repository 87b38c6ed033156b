"""Decoding against the schema: upstream's words, nothing unknown kept, one stored form."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api import resources, schema
from raykube.api.errors import ApiError
from raykube.api.resources import builtin

DEPLOYMENTS = builtin("apps/v1", "Deployment")
PODS = builtin("v1", "Pod")
PREFIX = 'Deployment in version "v1" cannot be handled as a Deployment: '


def deployment(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "Deployment",
        "apiVersion": "apps/v1",
        "metadata": {"name": "x"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            **spec,
        },
    }


def pod(**spec: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "x"},
        "spec": {"containers": [{"name": "c"}], **spec},
    }


def test_a_good_object_is_left_alone() -> None:
    obj = deployment()
    before = copy.deepcopy(obj)
    assert schema.conform(DEPLOYMENTS, obj) == []
    assert obj == before
    assert schema.validate(DEPLOYMENTS, obj) == []


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (
            {"replicas": "3"},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": 3.0},
            "json: cannot unmarshal number 3.0 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": 2**31},
            "json: cannot unmarshal number 2147483648 into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"replicas": True},
            "json: cannot unmarshal bool into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"template": []},
            "json: cannot unmarshal array into Go struct field DeploymentSpec.spec.template of type v1.PodTemplateSpec",
        ),
        (
            {"template": {"spec": {"containers": {}}}},
            (
                "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers of type "
                "[]v1.Container"
            ),
        ),
        (
            {"template": {"spec": {"containers": [{"name": 1}]}}},
            (
                "json: cannot unmarshal number into Go struct field Container.spec.template.spec.containers.name of "
                "type string"
            ),
        ),
        (
            {"template": {"spec": {"restartPolicy": 1}}},
            (
                "json: cannot unmarshal number into Go struct field PodSpec.spec.template.spec.restartPolicy of type "
                "v1.RestartPolicy"
            ),
        ),
        (
            {"template": {"spec": {"nodeSelector": []}}},
            (
                "json: cannot unmarshal array into Go struct field PodSpec.spec.template.spec.nodeSelector of type "
                "map[string]string"
            ),
        ),
        (
            {"strategy": {"rollingUpdate": {"maxSurge": True}}},
            "json: cannot unmarshal bool into Go value of type int32",
        ),
        (
            {"template": {"metadata": {"creationTimestamp": "x"}}},
            'parsing time "x" as "2006-01-02T15:04:05Z07:00": cannot parse "x" as "2006"',
        ),
        (
            {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}}},
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ],
)
def test_wrong_types_are_bad_requests_in_upstreams_words(spec: dict[str, Any], problem: str) -> None:
    with pytest.raises(ApiError) as caught:
        schema.conform(DEPLOYMENTS, deployment(**spec))
    assert caught.value.code == 400
    assert str(caught.value) == PREFIX + problem


def test_bad_base64() -> None:
    secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x"}, "data": {"a": "!!"}}
    with pytest.raises(ApiError, match="illegal base64 data at input byte 0"):
        schema.conform(builtin("v1", "Secret"), secret)
    secret["data"] = {"a": "YWJj\nZGVm", "b": "", "c": "YQ=="}
    assert schema.conform(builtin("v1", "Secret"), secret) == []
    assert secret["data"] == {"a": "YWJjZGVm", "b": "", "c": "YQ=="}


def test_unknown_fields_are_named_by_path_and_dropped() -> None:
    obj = deployment(foo=1)
    obj["spec"]["template"]["spec"]["containers"][0]["imagee"] = "x"
    obj["bar"] = {}
    expected = [
        'unknown field "spec.template.spec.containers[0].imagee"',
        'unknown field "spec.foo"',
        'unknown field "bar"',
    ]
    before = copy.deepcopy(obj)
    assert schema.unknown_fields(DEPLOYMENTS, obj) == expected
    assert obj == before
    assert schema.conform(DEPLOYMENTS, obj) == expected
    assert obj == deployment()


def test_nulls_go_as_in_go() -> None:
    obj = deployment(paused=None)
    obj["metadata"].update(creationTimestamp=None, labels={"a": None}, finalizers=[None])
    obj["status"] = None
    assert schema.conform(DEPLOYMENTS, obj) == []
    assert "paused" not in obj["spec"]
    assert "status" not in obj
    assert obj["metadata"] == {"name": "x", "labels": {"a": ""}, "finalizers": [""]}


def test_quantities_times_and_int_or_strings_have_one_form() -> None:
    obj = pod(
        containers=[{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}, "requests": {"cpu": 1}}}]
    )
    obj["metadata"]["creationTimestamp"] = "2026-01-02T05:04:05.5+02:00"
    assert schema.conform(PODS, obj) == []
    assert obj["spec"]["containers"][0]["resources"] == {
        "limits": {"cpu": "500m", "memory": "1Gi"},
        "requests": {"cpu": "1"},
    }
    assert obj["metadata"]["creationTimestamp"] == "2026-01-02T03:04:05Z"
    lease = {
        "kind": "Lease",
        "apiVersion": "coordination.k8s.io/v1",
        "metadata": {"name": "x"},
        "spec": {"renewTime": "2026-01-02T03:04:05Z"},
    }
    assert schema.conform(builtin("coordination.k8s.io/v1", "Lease"), lease) == []
    assert lease["spec"] == {"renewTime": "2026-01-02T03:04:05.000000Z"}
    obj = deployment(strategy={"rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}})
    assert schema.conform(DEPLOYMENTS, obj) == []


def test_free_form_values_keep_everything() -> None:
    revision = {
        "kind": "ControllerRevision",
        "apiVersion": "apps/v1",
        "metadata": {"name": "x", "managedFields": [{"fieldsV1": {"f:spec": {".": {}, "x": None}}}]},
        "revision": 1,
        "data": {"any": [None, {"thing": 1.5}]},
    }
    before = copy.deepcopy(revision)
    assert schema.conform(builtin("apps/v1", "ControllerRevision"), revision) == []
    assert revision == before


def test_zeros_of_required_status_fields_are_written() -> None:
    obj = pod()
    obj["status"] = {"containerStatuses": [{"name": "c", "image": "i"}]}
    assert schema.conform(PODS, obj) == []
    assert obj["status"]["containerStatuses"] == [
        {"name": "c", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    ]


def test_required() -> None:
    obj = deployment()
    del obj["spec"]["selector"]
    obj["spec"]["template"]["spec"]["containers"] = [{}]
    assert [str(cause) for cause in schema.validate(DEPLOYMENTS, obj)] == [
        "spec.selector: Required value",
        "spec.template.spec.containers[0].name: Required value",
    ]


def test_what_has_no_schema_passes() -> None:
    row = resources.Resource("stable.example.com", "v1", "CronTab", "crontabs", "crontab", True)
    obj = {"spec": {"x": None}}
    assert schema.conform(row, obj) == []
    assert schema.validate(row, obj) == []
    assert obj == {"spec": {"x": None}}


def test_merge_keys() -> None:
    assert schema.merge_keys(PODS, ("spec", "containers")) == ("name",)
    assert schema.merge_keys(DEPLOYMENTS, ("spec", "template", "spec", "containers", "ports")) == (
        "containerPort",
        "protocol",
    )
    assert schema.merge_keys(PODS, ("spec", "nothing")) == ()
    assert schema.merge_keys(PODS, ("spec", "containers", "command")) == ()


def test_every_kind_decodes_an_empty_object() -> None:
    for row in resources.all_resources():
        obj = {"kind": row.kind, "apiVersion": row.api_version, "metadata": {"name": "x"}}
        assert schema.conform(row, obj) == []


def test_a_deep_body_is_refused_not_fatal() -> None:
    inner: dict[str, Any] = {"type": 1}
    for _ in range(2000):
        inner = {"properties": {"a": inner}}
    crd = {
        "kind": "CustomResourceDefinition",
        "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {"name": "x"},
        "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": inner}}]},
    }
    with pytest.raises(ApiError) as caught:
        schema.conform(builtin("apiextensions.k8s.io/v1", "CustomResourceDefinition"), crd)
    assert caught.value.code == 400


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["spec", "metadata", "status", "containers", "name", "replicas", "labels", "ports", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=15,
)


@given(
    st.dictionaries(st.sampled_from(["kind", "metadata", "spec", "status", "data"]), JUNK), st.sampled_from(range(30))
)
def test_any_object_conforms_or_is_refused_and_conforming_is_final(obj: dict[str, Any], which: int) -> None:
    row = resources.all_resources()[which]
    try:
        schema.conform(row, obj)
    except ApiError as error:
        assert error.code == 400
        return
    again = copy.deepcopy(obj)
    assert schema.conform(row, again) == []
    assert again == obj
    schema.validate(row, obj)
