"""PriorityClasses, PodGroups and Workloads that make no sense."""

from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.api.validation import validate_create, validate_update

Object = dict[str, Any]
RESERVED = (
    "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: "
)


def made(kind: str, version: str, name: str, **more: Any) -> Object:
    metadata = {"name": name, "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    if kind != "PriorityClass":
        metadata["namespace"] = "d"
    return {"apiVersion": f"scheduling.k8s.io/{version}", "kind": kind, "metadata": metadata, **more}


def said(obj: Object) -> list[str]:
    causes = validate_create(builtin(obj["apiVersion"], obj["kind"]), obj)
    return [f"{cause.field}: {cause.message}" for cause in causes]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("high", 1_000_000_000, ""),
        ("system-node-critical", 2_000_001_000, ""),
        ("higher", 1_000_000_001, "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
        (
            "system-mine",
            5,
            RESERVED + "system-mine is not a known system priority class",
        ),
    ],
)
def test_priority_classes(name: str, value: int, expected: str) -> None:
    assert said(made("PriorityClass", "v1", name, value=value)) == ([expected] if expected else [])


def group(policy: Object) -> Object:
    return made("PodGroup", "v1alpha2", "g", spec={"schedulingPolicy": policy})


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"gang": {"minCount": 3}}, ""),
        ({"basic": {}}, ""),
        ({"gang": {"minCount": 0}}, "must be greater than or equal to 1"),
        ({"gang": {"minCount": 1}, "basic": {}}, "must specify exactly one of"),
        ({}, "must specify exactly one of"),
    ],
)
def test_pod_groups(policy: Object, expected: str) -> None:
    found = said(group(policy))
    assert len(found) == bool(expected)
    assert expected in "".join(found)


def test_a_pod_group_keeps_its_policy() -> None:
    resource = builtin("scheduling.k8s.io/v1alpha2", "PodGroup")
    old, new = group({"gang": {"minCount": 3}}), group({"gang": {"minCount": 4}})
    for obj in (old, new):
        obj["metadata"]["resourceVersion"] = "1"
    (cause,) = validate_update(resource, new, old)
    assert cause.field == "spec.schedulingPolicy"
    assert "field is immutable" in cause.message


def test_workloads() -> None:
    template = {"name": "a", "schedulingPolicy": {"basic": {}}}
    assert said(made("Workload", "v1alpha2", "w", spec={"podGroupTemplates": [template]})) == []
    assert "Duplicate" in said(made("Workload", "v1alpha2", "w", spec={"podGroupTemplates": [template, template]}))[0]
    assert "at least one" in said(made("Workload", "v1alpha2", "w", spec={"podGroupTemplates": []}))[0]
    many = [dict(template, name=f"t{number}") for number in range(9)]
    assert "Too many" in said(made("Workload", "v1alpha2", "w", spec={"podGroupTemplates": many}))[0]
