"""job-controller on the model cluster: counts are exact whatever crashes."""

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.api.deadlines import DEADLINE, DURATION
from raykube.controllers.core import job_pods, kinds
from raykube.controllers.core.completions import Indexes
from raykube.controllers.core.job import JobController
from raykube.controllers.core.plan import Obj
from raykube.controllers.core.pods import is_active, is_terminal
from tests.controllers.model import Cluster, Crash, Running, kubelet, set_pod, template

SELECTOR = {"matchLabels": {"batch.kubernetes.io/controller-uid": "job-uid"}}


def job(**spec: Any) -> Obj:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "sum", "uid": "job-uid"},
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "selector": SELECTOR,
            "template": template({"batch.kubernetes.io/controller-uid": "job-uid"}),
            **spec,
        },
    }


def start(cluster: Cluster) -> Running:
    running = Running(cluster, [JobController()])
    running.start()
    running.run()
    return running


def status(cluster: Cluster) -> Obj:
    found = cluster.get(kinds.JOBS, "default", "sum")
    assert found is not None
    return dict(found.get("status") or {})


def condition_types(cluster: Cluster) -> list[str]:
    return [each["type"] for each in status(cluster).get("conditions", []) if each["status"] == "True"]


def active(cluster: Cluster) -> list[Obj]:
    return [pod for pod in cluster.all(kinds.PODS) if is_active(pod)]


def finish(cluster: Cluster, running: Running, phase: str = "Succeeded") -> None:
    kubelet(cluster, phase)
    running.run()


def test_runs_to_completion() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completions=5, parallelism=2))
    running = start(cluster)
    assert len(active(cluster)) == 2
    (first, _) = active(cluster)
    assert first["metadata"]["finalizers"] == ["batch.kubernetes.io/job-tracking"]
    assert first["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "sum"
    for _ in range(5):
        finish(cluster, running)
    found = status(cluster)
    assert (found["succeeded"], found.get("failed"), found.get("active")) == (5, None, None)
    assert found["uncountedTerminatedPods"] == {} and found["completionTime"]
    assert condition_types(cluster) == ["SuccessCriteriaMet", "Complete"]
    assert len(cluster.all(kinds.PODS)) == 5
    assert not any(pod["metadata"].get("finalizers") for pod in cluster.all(kinds.PODS))
    assert cluster.events[-1].reason == "Completed"


def test_pods_have_the_deadline_of_their_job() -> None:
    cluster = Cluster()
    made = job(completions=1)
    made["metadata"]["annotations"] = {DEADLINE: "2026-11-28T14:30:00Z", DURATION: "10m", "other": "stays"}
    made["spec"]["template"].setdefault("metadata", {})["annotations"] = {DURATION: "5m"}
    cluster.add(kinds.JOBS, made)
    start(cluster)
    (pod,) = active(cluster)
    assert pod["metadata"]["annotations"] == {DEADLINE: "2026-11-28T14:30:00Z", DURATION: "5m"}


def test_indexed() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completions=4, parallelism=3, completionMode="Indexed"))
    running = start(cluster)
    pods = active(cluster)
    assert sorted(job_pods.index_of(pod) or 0 for pod in pods) == [0, 1, 2]
    pod = next(pod for pod in pods if job_pods.index_of(pod) == 2)
    assert pod["metadata"]["name"].startswith("sum-2-") and pod["spec"]["hostname"] == "sum-2"
    (variable,) = pod["spec"]["containers"][0]["env"]
    assert variable["name"] == "JOB_COMPLETION_INDEX"
    cluster.change(kinds.PODS, pod["metadata"]["name"], set_pod("Succeeded", False, cluster.now))
    running.run()
    assert status(cluster)["completedIndexes"] == "2"
    for _ in range(3):
        finish(cluster, running)
    assert status(cluster)["completedIndexes"] == "0-3"
    assert condition_types(cluster)[-1] == "Complete"


def test_pods_of_an_indexed_job_have_host_names_of_their_own() -> None:
    cluster = Cluster()
    wanted = job(completions=2, parallelism=2, completionMode="Indexed")
    wanted["spec"]["template"]["spec"]["hostname"] = "worker"
    cluster.add(kinds.JOBS, wanted)
    start(cluster)
    assert sorted(pod["spec"]["hostname"] for pod in active(cluster)) == ["sum-0", "sum-1"]


def test_fails_after_its_backoff_limit_with_doubling_pauses() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(backoffLimit=2))
    running = start(cluster)
    finish(cluster, running, "Failed")
    assert status(cluster)["failed"] == 1 and not active(cluster)
    running.advance(9)
    assert not active(cluster)
    running.advance(1)
    assert len(active(cluster)) == 1
    finish(cluster, running, "Failed")
    running.advance(19)
    assert not active(cluster)
    running.advance(1)
    finish(cluster, running, "Failed")
    assert status(cluster)["failed"] == 3
    assert condition_types(cluster) == ["FailureTarget", "Failed"]
    assert cluster.events[-1].reason == "BackoffLimitExceeded"


def test_deadline() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(activeDeadlineSeconds=30))
    running = start(cluster)
    kubelet(cluster)
    running.advance(29)
    assert not condition_types(cluster)
    running.advance(1)
    assert condition_types(cluster) == ["FailureTarget"], "its pod still runs"
    kubelet(cluster)
    running.run()
    kubelet(cluster)
    running.run()
    assert condition_types(cluster) == ["FailureTarget", "Failed"]
    assert status(cluster)["conditions"][-1]["reason"] == "DeadlineExceeded"
    assert status(cluster)["failed"] == 1


def test_suspend_and_resume_count_nothing() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(parallelism=2, completions=2))
    running = start(cluster)
    kubelet(cluster)
    cluster.change(kinds.JOBS, "sum", lambda obj: obj["spec"].update(suspend=True))
    running.run()
    assert not active(cluster) and condition_types(cluster) == ["Suspended"]
    while kubelet(cluster):
        running.run()
    assert status(cluster).get("failed") is None and not cluster.all(kinds.PODS)
    cluster.now += 100
    cluster.change(kinds.JOBS, "sum", lambda obj: obj["spec"].update(suspend=False))
    running.run()
    finish(cluster, running)
    assert condition_types(cluster)[-1] == "Complete"
    assert [event.reason for event in cluster.events if event.reason in ("Suspended", "Resumed")] == [
        "Suspended",
        "Resumed",
    ]


def test_without_completions_any_success_completes() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(parallelism=3, completions=None))
    running = start(cluster)
    assert len(active(cluster)) == 3
    for pod in active(cluster):
        cluster.change(kinds.PODS, pod["metadata"]["name"], set_pod("Succeeded", False, cluster.now))
        running.run()
    assert status(cluster)["succeeded"] == 3 and condition_types(cluster)[-1] == "Complete"
    assert len(cluster.all(kinds.PODS)) == 3


def test_a_deleted_job_lets_its_pods_go() -> None:
    cluster = Cluster()
    found = cluster.add(kinds.JOBS, job(parallelism=2, completions=2))
    running = start(cluster)
    cluster.vanish(kinds.JOBS, found)
    running.run()
    assert len(cluster.all(kinds.PODS)) == 2
    assert not any(pod["metadata"].get("finalizers") for pod in cluster.all(kinds.PODS))


def test_pod_failure_policy() -> None:
    cluster = Cluster()
    rules = [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1]}}]
    cluster.add(kinds.JOBS, job(podFailurePolicy={"rules": rules}))
    running = start(cluster)
    finish(cluster, running, "Failed")
    assert status(cluster)["conditions"][-1]["reason"] == "PodFailurePolicy"
    assert "failed with exit code 1 matching FailJob rule at index 0" in status(cluster)["conditions"][-1]["message"]


def test_ignored_failures_do_not_count() -> None:
    cluster = Cluster()
    rules = [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [1]}}]
    cluster.add(kinds.JOBS, job(backoffLimit=0, podFailurePolicy={"rules": rules}))
    running = start(cluster)
    finish(cluster, running, "Failed")
    assert status(cluster).get("failed") is None and len(active(cluster)) == 1
    finish(cluster, running)
    assert condition_types(cluster)[-1] == "Complete"


def test_backoff_limit_per_index() -> None:
    cluster = Cluster()
    cluster.add(
        kinds.JOBS, job(completions=2, parallelism=2, completionMode="Indexed", backoffLimitPerIndex=1, backoffLimit=99)
    )
    running = start(cluster)
    for phase in ("Failed", "Failed"):
        for pod in active(cluster):
            outcome = phase if job_pods.index_of(pod) == 0 else "Succeeded"
            cluster.change(kinds.PODS, pod["metadata"]["name"], set_pod(outcome, False, cluster.now))
        running.advance(30)
    assert status(cluster)["failedIndexes"] == "0" and status(cluster)["completedIndexes"] == "1"
    assert status(cluster)["conditions"][-1]["reason"] == "FailedIndexes"


def test_failures_of_an_index_are_not_forgotten_with_pods_that_go_at_once() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completionMode="Indexed", backoffLimitPerIndex=2, backoffLimit=99))
    running = start(cluster)
    for failures in range(3):
        (pod,) = active(cluster)
        name = pod["metadata"]["name"]
        assert pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] == str(failures)
        cluster.change(kinds.PODS, name, lambda obj: obj["spec"].update(nodeName="n"))
        cluster.remove(kinds.PODS, name)  # as an eviction does
        cluster.change(kinds.PODS, name, set_pod("Failed", False, cluster.now))
        running.advance(700)
        assert cluster.get(kinds.PODS, "default", name) is None
    assert status(cluster)["failedIndexes"] == "0" and status(cluster)["failed"] == 3
    assert condition_types(cluster)[-1] == "Failed" and status(cluster)["uncountedTerminatedPods"] == {}


def test_an_ignored_failure_hands_on_how_many_there_were() -> None:
    cluster = Cluster()
    rules = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
    policy = {"podFailurePolicy": {"rules": rules}, "podReplacementPolicy": "Failed"}
    cluster.add(kinds.JOBS, job(completionMode="Indexed", backoffLimitPerIndex=2, backoffLimit=99, **policy))
    running = start(cluster)
    for expected, disrupted in (("0", False), ("1", True), ("1", False)):
        (pod,) = active(cluster)
        name = pod["metadata"]["name"]
        assert pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] == expected
        cluster.change(kinds.PODS, name, lambda obj: obj["spec"].update(nodeName="n"))
        cluster.remove(kinds.PODS, name)
        target = [{"type": "DisruptionTarget", "status": "True"}] if disrupted else []
        cluster.change(kinds.PODS, name, lambda obj, found=target: obj.update(status={"conditions": found}))
        cluster.change(kinds.PODS, name, lambda obj: obj["status"].update(phase="Failed"))
        running.advance(700)
    (pod,) = active(cluster)
    assert pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] == "2"
    assert status(cluster)["failed"] == 2


@pytest.mark.parametrize(
    ("rules", "first", "enough", "rule"),
    [
        ([{"succeededIndexes": "0"}], 3, 0, 0),  # the leader
        ([{"succeededIndexes": "0,2-3", "succeededCount": 2}], 0, 3, 0),
        ([{"succeededIndexes": "1-2"}, {"succeededCount": 2}], 3, 0, 1),
    ],
)
def test_a_success_policy_ends_it_before_all_have_succeeded(
    rules: list[Obj], first: int, enough: int, rule: int
) -> None:
    cluster = Cluster()
    policy = {"rules": rules}
    cluster.add(kinds.JOBS, job(completions=5, parallelism=5, completionMode="Indexed", successPolicy=policy))
    running = start(cluster)
    for index in (first, enough):
        assert condition_types(cluster) == [] and len(active(cluster)) == (5 if index == first else 4)
        (pod,) = (pod for pod in active(cluster) if job_pods.index_of(pod) == index)
        cluster.change(kinds.PODS, pod["metadata"]["name"], set_pod("Succeeded", False, cluster.now))
        running.run()
    assert condition_types(cluster) == ["SuccessCriteriaMet", "Complete"] and not active(cluster)
    met, complete = (each for each in status(cluster)["conditions"] if each["status"] == "True")
    for each in (met, complete):
        assert (each["reason"], each["message"]) == ("SuccessPolicy", f"Matched rules at index {rule}")
    assert status(cluster)["succeeded"] == 2 and status(cluster)["completionTime"]


@given(first=st.sets(st.integers(0, 30)), second=st.sets(st.integers(0, 30)))
def test_completion_indexes_have_in_common_what_sets_have(first: set[int], second: set[int]) -> None:
    one, other = (Indexes.parse(",".join(map(str, sorted(each))), 99) for each in (first, second))
    assert one.common(other) == len(first & second)


@pytest.mark.parametrize("index", ["0", "1", "7", "none"])
def test_a_pod_whose_index_is_done_taken_or_none_goes(index: str) -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completions=3, parallelism=2, completionMode="Indexed"))
    running = start(cluster)
    first, second = sorted(active(cluster), key=lambda pod: str(job_pods.index_of(pod)))
    if index != "1":
        cluster.change(kinds.PODS, first["metadata"]["name"], set_pod("Succeeded", False, cluster.now))
        running.run()
        assert status(cluster)["completedIndexes"] == "0"

    def edit(pod: Obj) -> None:
        pod["metadata"]["annotations"][job_pods.INDEX] = index
        pod["metadata"]["labels"][job_pods.INDEX] = index

    moved = first if index == "1" else second
    cluster.change(kinds.PODS, moved["metadata"]["name"], edit)
    running.run()
    names = {pod["metadata"]["name"] for pod in active(cluster)}
    assert len(names) == 2 and len({job_pods.index_of(pod) for pod in active(cluster)}) == 2
    had_it = {first["metadata"]["name"], second["metadata"]["name"]} if index == "1" else {moved["metadata"]["name"]}
    assert had_it - names, "one that had it is replaced"


@pytest.mark.parametrize(
    ("text", "indexes"), [("", set()), ("0", {0}), ("0-2,5", {0, 1, 2, 5}), ("1,3-4,9", {1, 3, 4, 9})]
)
def test_completion_indexes(text: str, indexes: set[int]) -> None:
    found = Indexes.parse(text, 100)
    assert len(found) == len(indexes) and {index for index in range(100) if index in found} == indexes
    assert str(found) == text


@pytest.mark.parametrize("text", ["5,x,0-2", "2,1,0,5-5", "0-1,1-2,,5,-", "-3,0-2,5,\u00b2,1-", "0-2,5," + "9" * 5000])
def test_completion_indexes_that_somebody_else_wrote(text: str) -> None:
    assert str(Indexes.parse(text, 6)) == "0-2,5"


INDEX = st.integers(0, 40)


@given(st.sets(INDEX), st.lists(INDEX), st.sets(INDEX), st.integers(0, 45))
def test_completion_indexes_are_a_set(first: set[int], more: list[int], asked: set[int], limit: int) -> None:
    found, twin = Indexes.parse(",".join(map(str, first)), 41), set(first)
    for index in more:
        found.add(index)
        twin.add(index)
    assert len(found) == len(twin) and {index for index in range(45) if index in found} == twin
    assert list(found.others(limit)) == [index for index in range(limit) if index not in twin]
    assert found.has_any(sorted(asked)) == bool(twin & asked)
    again = Indexes.parse(str(found), 41)
    assert str(again) == str(found) and list(again.others(45)) == list(found.others(45))


@pytest.mark.parametrize("mode", ["NonIndexed", "Indexed"])
@pytest.mark.parametrize("crash_every", range(1, 12))
def test_counts_are_exact_when_it_crashes_at_every_step(mode: str, crash_every: int) -> None:
    """5 completions and one failure, with the controllers lost after every `crash_every` writes."""
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completions=5, parallelism=3, completionMode=mode))
    ended = {"Succeeded": 0, "Failed": 0}
    for _ in range(300):
        cluster.writes_left = crash_every
        with contextlib.suppress(Crash):
            start(cluster).advance(15)
        if condition_types(cluster)[-1:] == ["Complete"]:
            break
        for pod in active(cluster)[:1]:
            outcome = "Failed" if ended == {"Succeeded": 1, "Failed": 0} else "Succeeded"
            ended[outcome] += 1
            cluster.change(kinds.PODS, pod["metadata"]["name"], set_pod(outcome, False, cluster.now))
    cluster.writes_left = -1
    start(cluster)
    found = status(cluster)
    assert ended == {"Succeeded": 5, "Failed": 1}, "not one pod too many ran"
    assert (found["succeeded"], found["failed"]) == (5, 1)
    assert found["uncountedTerminatedPods"] == {}
    assert not any(pod["metadata"].get("finalizers") for pod in cluster.all(kinds.PODS))


@given(
    wanted=st.integers(1, 6),
    parallelism=st.integers(1, 4),
    indexed=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(["ok", "fail", "delete", "crash", "wait"]), st.integers(0, 6)), max_size=25
    ),
)
@settings(max_examples=120, deadline=None)
def test_counts_are_exact_whatever_happens(
    wanted: int, parallelism: int, indexed: bool, steps: list[tuple[str, int]]
) -> None:
    cluster = Cluster()
    mode = "Indexed" if indexed else "NonIndexed"
    cluster.add(kinds.JOBS, job(completions=wanted, parallelism=parallelism, completionMode=mode, backoffLimit=1000))
    succeeded: set[str] = set()
    with contextlib.suppress(Crash):
        start(cluster)
    for action, number in steps:
        running_pods = active(cluster)
        if action == "crash":
            cluster.writes_left = number
        elif action == "wait":
            cluster.now += 60 * number
        elif running_pods:
            name = running_pods[number % len(running_pods)]["metadata"]["name"]
            if action == "delete":
                cluster.change(kinds.PODS, name, set_pod("Running", True, cluster.now))
                cluster.remove(kinds.PODS, name)
            else:
                outcome = "Succeeded" if action == "ok" else "Failed"
                cluster.change(kinds.PODS, name, set_pod(outcome, False, cluster.now))
                if action == "ok":
                    succeeded.add(name)
        with contextlib.suppress(Crash):
            start(cluster)
        assert len(active(cluster)) <= parallelism
    cluster.writes_left = -1
    running = start(cluster)
    for _ in range(40):
        if condition_types(cluster)[-1:] == ["Complete"]:
            break
        succeeded |= {pod["metadata"]["name"] for pod in active(cluster)}
        kubelet(cluster, "Succeeded")
        running.advance(700)
    assert status(cluster)["succeeded"] == wanted == len(succeeded)
    assert all(is_terminal(pod) or not pod["metadata"].get("finalizers") for pod in cluster.all(kinds.PODS))


def test_a_success_ends_the_back_off_when_it_is_counted_too() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completions=3, parallelism=1))
    running = start(cluster)
    finish(cluster, running, "Failed")
    running.advance(11)
    finish(cluster, running)
    assert status(cluster)["succeeded"] == 1
    running.advance(2)
    finish(cluster, running, "Failed")
    running.advance(9)
    assert not active(cluster)
    running.advance(1)
    assert len(active(cluster)) == 1, "ten seconds again, not twenty"


def test_a_counted_pod_that_is_no_longer_selected_is_released() -> None:
    cluster = Cluster()
    cluster.add(kinds.JOBS, job(completions=2, parallelism=1))
    running = start(cluster)
    finish(cluster, running)
    (pod,) = [each for each in cluster.all(kinds.PODS) if not is_active(each)]
    name = pod["metadata"]["name"]
    cluster.change(kinds.PODS, name, lambda each: each["metadata"].update(labels={"other": "label"}))
    running.run()
    released = cluster.get(kinds.PODS, "default", name)
    assert released is not None and not released["metadata"].get("ownerReferences")
    finish(cluster, running)
    assert status(cluster)["succeeded"] == 2


def test_nothing_is_remembered_of_a_job_whose_last_pod_ended_after_it() -> None:
    cluster = Cluster()
    made = cluster.add(kinds.JOBS, job())
    running = start(cluster)
    cluster.vanish(kinds.JOBS, made)
    running.run()
    finish(cluster, running)
    for pod in cluster.all(kinds.PODS):
        cluster.vanish(kinds.PODS, pod)
    running.run()
    (controller,) = running.controllers
    assert isinstance(controller, JobController)
    assert not controller._succeeded_at and not controller._relabelled
