"""LimitRanges as pure functions: defaults, and what is refused."""

from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core import limit_ranges

PODS = builtin("v1", "Pod")
CLAIMS = builtin("v1", "PersistentVolumeClaim")


def limits(kind: str, **item: Any) -> list[dict[str, Any]]:
    return [{"metadata": {"name": "limits"}, "spec": {"limits": [{"type": kind, **item}]}}]


def pod(requests: Any = None, most: Any = None, **spec: Any) -> dict[str, Any]:
    resources = {name: value for name, value in (("requests", requests), ("limits", most)) if value}
    containers = [{"name": "c", "resources": resources}]
    return {"metadata": {"name": "p"}, "spec": {"containers": containers, **spec}}


def refusal(resource: Any, obj: Any, found: Any) -> str:
    with pytest.raises(ApiError) as caught:
        limit_ranges.check(resource, obj, found)
    assert caught.value.code == 403
    return str(caught.value)


def test_defaults_fill_what_containers_do_not_say() -> None:
    found = limits("Container", default={"cpu": "500m", "memory": "1Gi"}, defaultRequest={"cpu": "100m"})
    obj = pod({"cpu": "200m"}, initContainers=[{"name": "i"}])
    limit_ranges.fill(obj, found)
    container, first = obj["spec"]["containers"][0], obj["spec"]["initContainers"][0]
    assert container["resources"] == {"requests": {"cpu": "200m"}, "limits": {"cpu": "500m", "memory": "1Gi"}}
    assert first["resources"] == {"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "1Gi"}}
    assert obj["metadata"]["annotations"]["kubernetes.io/limit-ranger"] == (
        "LimitRanger plugin set: cpu, memory limit for container c; cpu request for init container i; "
        "cpu, memory limit for init container i"
    )


def test_nothing_is_noted_where_nothing_is_missing() -> None:
    obj = pod({"cpu": "1"}, {"cpu": "1"})
    limit_ranges.fill(obj, limits("Container", default={"cpu": "2"}, defaultRequest={"cpu": "1"}))
    assert "annotations" not in obj["metadata"]


@pytest.mark.parametrize(
    ("item", "requests", "most", "message"),
    [
        ({"min": {"cpu": "1"}}, None, None, "minimum cpu usage per Container is 1. No request is specified"),
        (
            {"min": {"cpu": "1"}},
            {"cpu": "500m"},
            None,
            "minimum cpu usage per Container is 1, but request is 500m",
        ),
        ({"max": {"memory": "1Gi"}}, None, None, "maximum memory usage per Container is 1Gi. No limit is specified"),
        (
            {"max": {"memory": "1Gi"}},
            None,
            {"memory": "2Gi"},
            "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            {"cpu": "100m"},
            {"cpu": "300m"},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
        (
            {"maxLimitRequestRatio": {"cpu": "2"}},
            None,
            None,
            "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
        ),
        (
            {"max": {"cpu": "1", "memory": "1Gi"}},
            None,
            {"cpu": "2"},
            (
                "[maximum cpu usage per Container is 1, but limit is 2, "
                "maximum memory usage per Container is 1Gi. No limit is specified]"
            ),
        ),
    ],
)
def test_containers_are_refused_in_upstreams_words(item: Any, requests: Any, most: Any, message: str) -> None:
    found = refusal(PODS, pod(requests, most), limits("Container", **item))
    assert found == f'pods "p" is forbidden: {message}'


def test_a_pod_is_judged_by_its_sum() -> None:
    obj = pod({"cpu": "1"}, {"cpu": "1"})
    obj["spec"]["containers"].append({"name": "d", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}})
    assert "maximum cpu usage per Pod is 1500m, but limit is 2" in refusal(
        PODS, obj, limits("Pod", max={"cpu": "1500m"})
    )
    limit_ranges.check(PODS, obj, limits("Pod", max={"cpu": "2"}))


def test_claims_keep_between_minimum_and_maximum() -> None:
    found = limits("PersistentVolumeClaim", min={"storage": "1Gi"}, max={"storage": "2Gi"})

    def claim(size: str) -> dict[str, Any]:
        return {"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": size}}}}

    small, large = refusal(CLAIMS, claim("500Mi"), found), refusal(CLAIMS, claim("3Gi"), found)
    assert small.endswith("minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi")
    assert large.endswith("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi")
    limit_ranges.check(CLAIMS, claim("2Gi"), found)


def test_what_does_not_change_is_not_judged_again() -> None:
    bounds = limits("Container", max={"cpu": "1", "memory": "1Gi"})
    old, new = pod(None, {"cpu": "2", "memory": "1Gi"}), pod(None, {"cpu": "2", "memory": "512Mi"})
    limit_ranges.check(PODS, new, bounds, old)
    assert "cpu usage per Container is 1, but limit is 3" in refusal(
        PODS, pod(None, {"cpu": "3", "memory": "1Gi"}), bounds
    )
    with pytest.raises(ApiError, match="but limit is 3"):
        limit_ranges.check(PODS, pod(None, {"cpu": "3", "memory": "1Gi"}), bounds, old)
    claim = {"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "5Gi"}}}}
    limit_ranges.check(CLAIMS, claim, limits("PersistentVolumeClaim", max={"storage": "1Gi"}), claim)
