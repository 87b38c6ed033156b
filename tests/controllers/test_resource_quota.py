"""resourcequota-controller on the model cluster."""

import contextlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api import quantity, quotas
from raykube.base.clock import rfc3339
from raykube.controllers.caches import resource_table
from raykube.controllers.core import kinds
from raykube.controllers.core.plan import Read
from raykube.controllers.core.resource_quota import LAG_MAX_S, READ_MAX, ResourceQuotaController
from tests.controllers.model import Cluster, Crash, Running, set_pod

ENDED = {"deletionTimestamp": "2027-01-15T08:00:30Z", "deletionGracePeriodSeconds": 30}  # 60 s after the model's start


def quota(name: str = "q", spec: dict[str, Any] | None = None, **hard: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"hard": hard, **(spec or {})}, "status": {}}


def pod(name: str, cpu: str = "100m") -> dict[str, Any]:
    containers = [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]
    return {"metadata": {"name": name}, "spec": {"containers": containers}, "status": {"phase": "Pending"}}


def controller() -> ResourceQuotaController:
    return ResourceQuotaController(resource_table())


def run(cluster: Cluster) -> Running:
    running = Running(cluster, [controller()])
    running.start()
    running.run()
    return running


def status(cluster: Cluster, name: str = "q") -> dict[str, Any]:
    found = cluster.get(kinds.RESOURCE_QUOTAS, "default", name)
    assert found is not None
    return dict(found["status"])


def test_counts_what_is_there_and_what_goes() -> None:
    cluster = Cluster()
    for name in ("a", "b"):
        cluster.add(kinds.PODS, pod(name))
    cluster.add(kinds.PODS, pod("elsewhere") | {"metadata": {"name": "x", "namespace": "other"}})
    cluster.add("secrets", {"metadata": {"name": "s"}})
    cluster.add(kinds.RESOURCE_QUOTAS, quota(pods="5", **{"requests.cpu": "1", "count/secrets": "2", "services": "1"}))
    running = run(cluster)
    assert status(cluster) == {
        "hard": {"pods": "5", "requests.cpu": "1", "count/secrets": "2", "services": "1"},
        "used": {"pods": "2", "requests.cpu": "200m", "count/secrets": "1", "services": "0"},
    }
    cluster.change(kinds.PODS, "a", set_pod("Succeeded", False, cluster.now))
    cluster.remove("secrets", "s")
    running.run()
    assert status(cluster)["used"] == {"pods": "1", "requests.cpu": "100m", "count/secrets": "0", "services": "0"}


def test_scopes_and_changed_limits() -> None:
    cluster = Cluster()
    cluster.add(kinds.PODS, pod("a"))
    cluster.add(kinds.RESOURCE_QUOTAS, quota(spec={"scopes": ["Terminating"]}, pods="5"))
    running = run(cluster)
    assert status(cluster)["used"] == {"pods": "0"}
    cluster.change(kinds.PODS, "a", lambda obj: obj["spec"].update(activeDeadlineSeconds=5))
    running.run()
    assert status(cluster)["used"] == {"pods": "1"}
    cluster.change(kinds.RESOURCE_QUOTAS, "q", lambda obj: obj["spec"].update(hard={"count/pods": "7"}))
    running.run()
    assert status(cluster) == {"hard": {"count/pods": "7"}, "used": {"count/pods": "1"}}


def test_a_pod_on_a_lost_node_uses_nothing_after_its_grace_period() -> None:
    cluster = Cluster()
    lost = pod("a")
    lost["metadata"].update(ENDED)
    cluster.add(kinds.PODS, lost)
    cluster.add(kinds.RESOURCE_QUOTAS, quota(pods="5", **{"count/pods": "5"}))
    running = run(cluster)
    assert status(cluster)["used"] == {"pods": "1", "count/pods": "1"}
    running.advance(62)
    assert status(cluster)["used"] == {"pods": "0", "count/pods": "1"}


def test_caches_that_may_lack_a_charged_pod_are_not_counted() -> None:
    cluster = Cluster()
    for name in "abc":
        cluster.add("secrets", {"metadata": {"name": name}})
    hard = {"pods": "5", "count/secrets": "5"}
    found = cluster.add(kinds.RESOURCE_QUOTAS, quota(**hard))
    found["status"] = {"hard": hard, "used": {"pods": "1", "count/secrets": "3"}}
    cluster.seen[kinds.PODS] = cluster.revision - 2
    cluster.seen["secrets"] = 0  # however old: what it shows is what the quota says
    one = controller()
    plan = one.reconcile(Blind(cluster), "default/q", cluster.now)
    assert list(plan.reads) == [Read(kinds.PODS, "default")] and not plan.writes
    cluster.add(kinds.PODS, pod("charged"))
    assert not one.reconcile(cluster, "default/q", cluster.now).writes, "the API knows the pod: nothing was given up"
    cluster.seen[kinds.PODS] = cluster.revision
    cluster.vanish(kinds.PODS, cluster.all(kinds.PODS)[0])
    (write,) = one.reconcile(Blind(cluster), "default/q", cluster.now).writes
    assert write.body == {"status": {"used": {"pods": "0"}}} and write.resource_version == int(
        found["metadata"]["resourceVersion"]
    )


def test_objects_that_were_read_for_an_older_quota_are_not_counted_for_a_newer_one() -> None:
    """Pods that were charged while they were read are not among them."""
    cluster = Cluster()
    for name in "abc":
        cluster.add("secrets", {"metadata": {"name": name}})
    hard = {"pods": "5"}
    cluster.add(kinds.RESOURCE_QUOTAS, quota(**hard))["status"] = {"hard": hard, "used": {"pods": "1"}}
    cluster.seen[kinds.PODS] = 0
    one = controller()
    assert one.reconcile(Blind(cluster), "default/q", cluster.now).reads
    cluster.change(kinds.RESOURCE_QUOTAS, "q", lambda obj: obj["status"].update(used={"pods": "2"}))
    cluster.seen[kinds.PODS] = 0
    plan = one.reconcile(cluster, "default/q", cluster.now)
    assert not plan.writes and plan.requeue_after
    assert one.reconcile(Blind(cluster), "default/q", cluster.now).reads, "they are read for this one"
    assert one.reconcile(cluster, "default/q", cluster.now).writes


class Blind:
    """A cluster whose live reads have not been made."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def answer(self, read: Read) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)


@given(
    steps=st.lists(st.sampled_from(["add", "remove", "end", "raise", "secret"]), max_size=8),
    crashes=st.lists(st.integers(0, 2), max_size=6),
)
@settings(max_examples=80, deadline=None)
def test_the_count_is_right_whatever_crashes(steps: list[str], crashes: list[int]) -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_QUOTAS, quota(pods="5", **{"count/secrets": "9"}))
    for number, step in enumerate(steps):
        alive = [each for each in cluster.all(kinds.PODS) if each["status"]["phase"] == "Pending"]
        if step == "add":
            cluster.add(kinds.PODS, pod(f"p{number}"))
        elif step == "secret":
            cluster.add("secrets", {"metadata": {"name": f"s{number}"}})
        elif step == "raise":
            limit = {"pods": str(number)}
            cluster.change(kinds.RESOURCE_QUOTAS, "q", lambda obj, limit=limit: obj["spec"]["hard"].update(limit))
        elif alive and step == "remove":
            cluster.vanish(kinds.PODS, alive[0])
        elif alive:
            cluster.change(kinds.PODS, alive[0]["metadata"]["name"], set_pod("Failed", False, cluster.now))
        cluster.writes_left = crashes[number] if number < len(crashes) else -1
        with contextlib.suppress(Crash):
            cluster.settle(controller())
    cluster.writes_left = -1
    cluster.settle(controller())
    alive = [each for each in cluster.all(kinds.PODS) if each["status"]["phase"] == "Pending"]
    assert status(cluster)["used"] == {"pods": str(len(alive)), "count/secrets": str(len(cluster.all("secrets")))}


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "remove", "end", "leave", "label", "secret", "wait"]), st.integers(0, 4)),
        max_size=30,
    ),
    st.sampled_from([{}, {"scopes": ["NotTerminating"]}]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_remembered_is_what_counting_again_finds(steps: list[tuple[str, int]], scopes: dict[str, Any]) -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_QUOTAS, quota(spec=scopes, pods="9", **{"requests.cpu": "9"}))
    running = run(cluster)
    for at, (step, number) in enumerate(steps):
        name = f"p{number}"
        found = cluster.get(kinds.PODS, "default", name)
        if step == "secret":
            cluster.add("secrets", {"metadata": {"name": f"s{at}"}})
        elif step == "wait":
            running.advance(20)
        elif found is None and step == "add":
            made = pod(name, cpu=f"{number + 1}00m")
            made["spec"] |= {"activeDeadlineSeconds": 5} if at % 3 == 0 else {}
            cluster.add(kinds.PODS, made)
        elif found is not None and step == "remove":
            cluster.vanish(kinds.PODS, found)
        elif found is not None and step == "end":
            cluster.change(kinds.PODS, name, set_pod("Failed", False, cluster.now))
        elif found is not None and step == "leave":
            ended = {"deletionTimestamp": rfc3339(cluster.now + 30), "deletionGracePeriodSeconds": 30}
            cluster.change(kinds.PODS, name, lambda each, ended=ended: each["metadata"].update(ended))
        elif found is not None and step == "label":
            cluster.change(kinds.PODS, name, lambda each: each["metadata"].update(labels={"a": "b"}))
        if at % 2:
            running.run()
    running.run()
    counted = [
        each
        for each in cluster.all(kinds.PODS)
        if each["status"]["phase"] != "Failed"
        and cluster.now <= (quotas.ends_at(each) or cluster.now)
        and not (scopes and "activeDeadlineSeconds" in each["spec"])
    ]
    millis = sum(int(each["spec"]["containers"][0]["resources"]["requests"]["cpu"][:-1]) for each in counted)
    used = status(cluster)["used"]
    assert (int(used["pods"]), quantity.milli(used["requests.cpu"])) == (len(counted), millis)


def test_a_large_namespace_is_given_a_moment_before_it_is_read() -> None:
    cluster = Cluster()
    for number in range(READ_MAX + 1):
        cluster.add(kinds.PODS, pod(f"p{number}"))
    found = cluster.add(kinds.RESOURCE_QUOTAS, quota(pods="500"))
    found["status"] = {"hard": {"pods": "500"}, "used": {"pods": str(READ_MAX + 2)}}
    cluster.seen[kinds.PODS] = cluster.revision - 2
    one = controller()
    plan = one.reconcile(Blind(cluster), "default/q", cluster.now)
    assert not plan.reads and not plan.writes and plan.requeue_after
    cluster.now += LAG_MAX_S
    assert list(one.reconcile(Blind(cluster), "default/q", cluster.now).reads) == [Read(kinds.PODS, "default")]
    (write,) = one.reconcile(cluster, "default/q", cluster.now).writes
    assert write.body == {"status": {"used": {"pods": str(READ_MAX + 1)}}}
    assert not one.reconcile(Blind(cluster), "default/q", cluster.now).reads, "the next one gets its moment too"


def test_what_was_not_limited_for_a_while_is_counted_anew() -> None:
    cluster = Cluster()
    cluster.add(kinds.RESOURCE_QUOTAS, quota(pods="5"))
    running = run(cluster)
    cluster.change(kinds.RESOURCE_QUOTAS, "q", lambda each: each["spec"].update(hard={"secrets": "5"}))
    running.run()
    cluster.add(kinds.PODS, pod("a"))
    running.run()
    cluster.change(kinds.RESOURCE_QUOTAS, "q", lambda each: each["spec"].update(hard={"pods": "5"}))
    running.run()
    assert status(cluster)["used"] == {"pods": "1"}
