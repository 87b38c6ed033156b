"""Charging objects to quotas as pure functions."""

from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.apiserver.core.quota_charges import Tally, charge, may_grow

PODS = builtin("v1", "Pod")
SERVICES = builtin("v1", "Service")
DEPLOYMENTS = builtin("apps/v1", "Deployment")


def tally(hard: dict[str, str], used: dict[str, str] | None = None, *, status: bool = True, **spec: Any) -> Tally:
    zero = dict.fromkeys(hard, "0")
    known = {"hard": hard, "used": zero | (used or {})} if status else {}
    return Tally({"metadata": {"name": "q"}, "spec": {"hard": hard, **spec}, "status": known}, 7)


def pod(requests: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "resources": {"requests": requests or {}}}]
    return {"metadata": {"name": "p"}, "spec": {"containers": containers, **spec}}


def refusal(tallies: list[Tally], resource: Any, obj: Any) -> str:
    with pytest.raises(ApiError) as caught:
        charge(tallies, resource, obj)
    assert caught.value.code == 403
    return str(caught.value)


def used(one: Tally) -> dict[str, str]:
    return dict(one.charged()["status"]["used"])


def test_objects_are_charged_until_there_is_no_more() -> None:
    quota = tally({"pods": "2"}, {"pods": "1"})
    assert charge([quota], PODS, pod()) and quota.is_touched and used(quota) == {"pods": "2"}
    assert refusal([quota], PODS, pod()) == (
        'pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2'
    )


def test_only_what_is_exceeded_is_named() -> None:
    quota = tally({"requests.cpu": "1", "requests.memory": "1Gi", "pods": "9"}, {"requests.cpu": "500m"})
    message = refusal([quota], PODS, pod({"cpu": "750m", "memory": "2Gi"}))
    assert message.endswith(
        "exceeded quota: q, requested: requests.cpu=750m,requests.memory=2Gi, "
        "used: requests.cpu=500m,requests.memory=0, limited: requests.cpu=1,requests.memory=1Gi"
    )
    assert used(quota)["requests.cpu"] == "500m" and not quota.is_touched


def test_all_quotas_or_none_are_charged() -> None:
    wide, narrow = tally({"pods": "9"}), tally({"pods": "0"})
    refusal([wide, narrow], PODS, pod())
    assert used(wide) == {"pods": "0"} and not wide.is_touched


def test_a_limited_resource_must_be_specified() -> None:
    assert refusal([tally({"limits.cpu": "1"})], PODS, pod()).endswith(
        "failed quota: q: must specify limits.cpu for: c"
    )


def test_what_was_never_counted_is_refused() -> None:
    quota = tally({"pods": "1"})
    quota._used.clear()
    assert refusal([quota], PODS, pod()).endswith("status unknown for quota: q, resources: pods")


def test_a_quota_that_was_not_counted_yet_is_written_all_the_same() -> None:
    """Its controller counts at this moment: what it writes must not stand over this pod."""
    quota = tally({"pods": "1"}, status=False)
    assert charge([quota], PODS, pod()) and quota.is_touched
    assert not charge([tally({"services": "1"}, status=False)], PODS, pod())


def test_scopes_choose_whom_it_is_for() -> None:
    quota = tally({"pods": "0"}, scopes=["BestEffort"])
    assert not charge([quota], PODS, pod({"cpu": "1"}))
    assert "exceeded" in refusal([quota], PODS, pod())


def test_counts_of_any_kind() -> None:
    quota = tally({"count/deployments.apps": "1"}, {"count/deployments.apps": "1"})
    assert refusal([quota], DEPLOYMENTS, {"metadata": {"name": "d"}}) == (
        'deployments.apps "d" is forbidden: exceeded quota: q, requested: count/deployments.apps=1, '
        "used: count/deployments.apps=1, limited: count/deployments.apps=1"
    )


def test_a_change_costs_what_it_adds() -> None:
    quota = tally({"services": "1", "services.nodeports": "3"}, {"services": "1", "services.nodeports": "1"})

    def service(ports: int) -> dict[str, Any]:
        return {"metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": n} for n in range(ports)]}}

    assert charge([quota], SERVICES, service(3), service(1)) and used(quota) == {
        "services": "1",
        "services.nodeports": "3",
    }
    assert not charge([tally({"services.nodeports": "0"})], SERVICES, service(1), service(3)), "less is never refused"
    assert may_grow(SERVICES, "") and not may_grow(SERVICES, "status") and may_grow(PODS, "resize")
