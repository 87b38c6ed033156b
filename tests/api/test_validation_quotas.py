"""ResourceQuotas, LimitRanges and ControllerRevisions that say something impossible."""

from typing import Any

import pytest

from raykube.api.resources import builtin
from raykube.api.validation import validate_create, validate_update


def causes(kind: str, api_version: str = "v1", old: dict[str, Any] | None = None, **fields: Any) -> list[str]:
    resource = builtin(api_version, kind)
    metadata = {"name": "x", "namespace": "default", "uid": "u"}
    obj = {"kind": kind, "apiVersion": api_version, "metadata": metadata, **fields}
    found = validate_update(resource, obj, {**obj, **old}) if old is not None else validate_create(resource, obj)
    return [str(cause) for cause in found]


def quota(hard: dict[str, str], **spec: Any) -> list[str]:
    return causes("ResourceQuota", spec={"hard": hard, **spec})


def limits(*items: dict[str, Any]) -> list[str]:
    return causes("LimitRange", spec={"limits": list(items)})


def test_names_that_quotas_limit() -> None:
    assert not quota({"pods": "1", "count/jobs.batch": "2", "requests.example.com/gpu": "3", "hugepages-2Mi": "4Mi"})
    assert not quota({"gold.storageclass.storage.k8s.io/requests.storage": "1Gi", "requests.storage": "500M"})
    assert quota({"cups": "1"}) == ['spec.hard[cups]: Invalid value: "cups": must be a standard resource for quota']
    assert quota({"pods": "500m"}) == ['spec.hard[pods]: Invalid value: "500m": must be an integer']
    assert quota({"count/jobs.batch": "1.5"}) == [
        'spec.hard[count/jobs.batch]: Invalid value: "1.5": must be an integer'
    ]


@pytest.mark.parametrize(
    ("hard", "scopes", "words"),
    [
        ("pods", ["Whenever"], "unsupported scope"),
        ("services", ["Terminating"], "unsupported scope applied to resource"),
        ("requests.cpu", ["BestEffort"], "unsupported scope applied to resource"),
        ("pods", ["BestEffort", "NotBestEffort"], "conflicting scopes"),
    ],
)
def test_scopes_fit_what_is_limited(hard: str, scopes: list[str], words: str) -> None:
    (found,) = quota({hard: "1"}, scopes=scopes)
    assert found.startswith("spec.scopes: Invalid value: [") and found.endswith(words)


def test_scope_selectors() -> None:
    def found(**expression: Any) -> list[str]:
        return quota({"pods": "1"}, scopeSelector={"matchExpressions": [expression]})

    path = "spec.scopeSelector.matchExpressions"
    assert not found(scopeName="PriorityClass", operator="In", values=["high"])
    (missing,) = found(scopeName="PriorityClass", operator="In")
    assert missing.startswith(f"{path}.values: Required value: must be at least one value")
    (surplus,) = found(scopeName="PriorityClass", operator="Exists", values=["x"])
    assert "must be no value" in surplus
    (wrong,) = found(scopeName="BestEffort", operator="DoesNotExist")
    assert wrong.startswith(f"{path}.operator: Invalid value: \"DoesNotExist\": must be 'Exist' when scope is any of")


def test_scopes_stay() -> None:
    old = {"spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort"]}}
    assert causes("ResourceQuota", old=old, spec={"hard": {"pods": "2"}, "scopes": ["BestEffort"]}) == []
    (found,) = causes("ResourceQuota", old=old, spec={"hard": {"pods": "1"}})
    assert found.startswith("spec.scopes") and found.endswith("field is immutable")


def test_bounds_do_not_contradict_each_other() -> None:
    assert not limits(
        {"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "default": {"cpu": "2"}},
        {"type": "Pod", "max": {"memory": "1Gi"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}},
    )
    assert limits({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}) == [
        'spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1'
    ]
    (found,) = limits({"type": "Container", "defaultRequest": {"cpu": "2"}, "default": {"cpu": "1"}})
    assert found.endswith("default request value 2 is greater than default limit value 1")
    (found,) = limits({"type": "Container", "default": {"cpu": "2"}, "max": {"cpu": "1"}})
    assert found.endswith("default value 2 is greater than max value 1")
    (found,) = limits({"type": "Pod", "min": {"cpu": "1"}, "max": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3"}})
    assert found.endswith("ratio 3 is greater than max/min = 2.000000")
    (found,) = limits({"type": "Pod", "maxLimitRequestRatio": {"cpu": "500m"}})
    assert found.endswith("ratio 500m is less than 1")


def test_types_of_limits() -> None:
    (found,) = limits({"type": "Pod", "default": {"cpu": "1"}})
    assert found == "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"
    (found,) = limits({"type": "Pod"}, {"type": "Pod"})
    assert found == 'spec.limits[1].type: Duplicate value: "Pod"'
    (found,) = limits({"type": "PersistentVolumeClaim", "max": {"cpu": "1"}})
    assert found.startswith("spec.limits[0].limits: Required value: either minimum or maximum storage value")
    (found,) = limits({"type": "Container", "max": {"cups": "1"}})
    assert found.endswith("must be a standard resource for containers")
    (found,) = limits({"type": "Saucer"})
    assert found.endswith("must be a standard limit type or fully qualified")


def test_revisions_hold_something_that_stays() -> None:
    def found(**fields: Any) -> list[str]:
        return causes("ControllerRevision", "apps/v1", **fields)

    assert not found(data={"spec": {}}, revision=1)
    assert found(revision=1) == ["data: Required value: data is mandatory"]
    assert found(data={}, revision=-1) == ["revision: Invalid value: -1: must be greater than or equal to 0"]
    assert not found(old={"data": {"a": 1}, "revision": 1}, data={"a": 1}, revision=2)
    (changed,) = found(old={"data": {"a": 1}, "revision": 1}, data={"a": 2}, revision=1)
    assert changed.endswith("field is immutable")
