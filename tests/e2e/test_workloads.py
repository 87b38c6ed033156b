"""Deployments that roll, scale and heal; Jobs that finish, fail and expire."""

import json
import os

import pytest

from tests.e2e.user import KILL, User, alive, container_pids, until

pytestmark = pytest.mark.integration

WORKER = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: worker}
spec:
  replicas: 3
  selector: {matchLabels: {app: worker}}
  template:
    metadata: {labels: {app: worker}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: worker
        image: any
        command: [sh, -c, "echo level $LEVEL; exec sleep 1000"]
        env: [{name: LEVEL, value: one}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: stuck}
spec:
  replicas: 2
  progressDeadlineSeconds: 5
  selector: {matchLabels: {app: stuck}}
  template:
    metadata: {labels: {app: stuck}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: any}]
"""


def job(name: str, script: str, policy: str = "Never", **spec: object) -> str:
    container = {"name": "main", "image": "any", "command": ["sh", "-c", script]}
    template = {"spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 0, "containers": [container]}}
    return json.dumps(
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": template, **spec}}
    )


JOBS = "\n".join(
    (
        job(
            "five",
            "echo done by $JOB_COMPLETION_INDEX; sleep 0.3",
            completions=5,
            parallelism=2,
            completionMode="Indexed",
        ),
        job("failing", "exit 3", backoffLimit=0, completions=2, parallelism=1),
        job("slow", "exec sleep 1000", activeDeadlineSeconds=3),
        job("expiring", "true", ttlSecondsAfterFinished=1),
        job("suspended", "true", suspend=True),
    )
)


@pytest.fixture(scope="module", autouse=True)
def applied(user: User) -> None:
    user.apply(JOBS)
    user.apply(WORKER)


def worker_pods(user: User) -> list[str]:
    """Names of the pods that are not on their way out."""
    pods = user.items("pods", "-l", "app=worker")
    return sorted(one["metadata"]["name"] for one in pods if "deletionTimestamp" not in one["metadata"])


def test_a_deployment_rolls_forward_and_back(user: User) -> None:
    assert 'deployment "worker" successfully rolled out' in user(
        "rollout", "status", "deployment/worker", "--timeout=60s"
    )
    row = user.row("get", "deployment", "worker")
    assert (row["READY"], row["UP-TO-DATE"], row["AVAILABLE"]) == ("3/3", "3", "3")
    first = worker_pods(user)
    assert user("logs", first[0]) == "level one\n"
    user("annotate", "deployment/worker", "kubernetes.io/change-cause=level two")
    user("set", "env", "deployment/worker", "LEVEL=two")
    assert "successfully rolled out" in user("rollout", "status", "deployment/worker", "--timeout=60s")
    second = until("three new pods", lambda: len(found := worker_pods(user)) == 3 and found)
    assert not set(first) & set(second)
    assert user("logs", second[0]) == "level two\n"
    history = user("rollout", "history", "deployment/worker").splitlines()
    assert history[-2].split() == ["2", "level", "two"], history
    assert "LEVEL:\ttwo" in user("rollout", "history", "deployment/worker", "--revision=2")
    user("rollout", "undo", "deployment/worker")
    assert "successfully rolled out" in user("rollout", "status", "deployment/worker", "--timeout=60s")
    replica_sets = {
        one["metadata"]["annotations"]["deployment.kubernetes.io/revision"]: one["spec"]["replicas"]
        for one in user.items("replicasets", "-l", "app=worker")
    }
    assert replica_sets == {"2": 0, "3": 3}, "the first ReplicaSet serves again, as revision 3"
    user("rollout", "restart", "deployment/worker")
    assert "successfully rolled out" in user("rollout", "status", "deployment/worker", "--timeout=60s")
    template = user.get("deployment", "worker")["spec"]["template"]
    assert "kubectl.kubernetes.io/restartedAt" in template["metadata"]["annotations"]


def test_a_deployment_scales(user: User) -> None:
    user("scale", "deployment/worker", "--replicas=5")
    user.wait("jsonpath={.status.readyReplicas}=5", "deployment/worker")
    assert {one["spec"]["nodeName"] for one in user.items("pods", "-l", "app=worker")} == {"plane-1", "plane-2"}
    refused = user.run("scale", "deployment/worker", "--replicas=2", "--current-replicas=3")
    assert refused.returncode == 1 and "Expected replicas to be 3, was 5" in refused.stderr
    user("scale", "deployment/worker", "--replicas=1")
    until("one pod", lambda: len(user.items("pods", "-l", "app=worker")) == 1)


def test_a_killed_process_and_a_deleted_pod_are_replaced(user: User) -> None:
    user("scale", "deployment/worker", "--replicas=1")
    [name] = until("one pod", lambda: len(found := worker_pods(user)) == 1 and found)
    user.wait("condition=Ready", f"pod/{name}")
    [pid] = container_pids(user, name)
    os.kill(pid, KILL)
    pod = user.pod_when(
        name,
        "runs again",
        lambda pod: (one := pod["status"]["containerStatuses"][0])["restartCount"] == 1 and "running" in one["state"],
    )
    last = pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"]) == (137, "Error")
    [again] = container_pids(user, name)
    assert again != pid and not alive(pid)
    user("delete", "pod", name)
    [other] = until("another pod", lambda: (found := worker_pods(user)) and found != [name] and found)
    user.wait("condition=Ready", f"pod/{other}")


def test_a_deployment_that_does_not_progress_says_so(user: User) -> None:
    status = user.run("rollout", "status", "deployment/stuck", "--timeout=30s")
    assert status.returncode == 1
    assert 'deployment "stuck" exceeded its progress deadline' in status.stderr
    assert user.row("get", "deployment", "stuck")["READY"] == "0/2"
    conditions = {one["type"]: one for one in user.get("deployment", "stuck")["status"]["conditions"]}
    assert (conditions["Progressing"]["status"], conditions["Progressing"]["reason"]) == (
        "False",
        "ProgressDeadlineExceeded",
    )
    assert conditions["Available"]["status"] == "False"


def test_an_indexed_job_completes(user: User) -> None:
    user.wait("condition=Complete", "job/five")
    row = user.row("get", "job", "five")
    assert (row["STATUS"], row["COMPLETIONS"]) == ("Complete", "5/5")
    status = user.get("job", "five")["status"]
    assert (status["succeeded"], status["completedIndexes"]) == (5, "0-4")
    pods = user.items("pods", "-l", "job-name=five")
    assert sorted(user("logs", one["metadata"]["name"]) for one in pods) == [f"done by {index}\n" for index in range(5)]
    assert user("logs", "job/five").startswith("done by")


def test_a_job_gives_up_at_its_back_off_limit(user: User) -> None:
    user.wait("condition=Failed", "job/failing")
    status = user.get("job", "failing")["status"]
    failed = next(one for one in status["conditions"] if one["type"] == "Failed")
    assert (failed["reason"], failed["message"]) == (
        "BackoffLimitExceeded",
        "Job has reached the specified backoff limit",
    )
    assert status["failed"] == 1
    assert "BackoffLimitExceeded" in user("describe", "job", "failing")


def test_a_job_ends_at_its_deadline(user: User) -> None:
    user.wait("condition=Failed", "job/slow")
    status = user.get("job", "slow")["status"]
    failed = next(one for one in status["conditions"] if one["type"] == "Failed")
    assert failed["reason"] == "DeadlineExceeded"
    until("no pods", lambda: not user.items("pods", "-l", "job-name=slow"))


def test_a_finished_job_expires_with_its_pods(user: User) -> None:
    user.wait("delete", "job/expiring")
    until("no pods", lambda: not user.items("pods", "-l", "job-name=expiring"))


def test_a_suspended_job_waits(user: User) -> None:
    assert user.row("get", "job", "suspended")["STATUS"] == "Suspended"
    assert not user.items("pods", "-l", "job-name=suspended")
    user("patch", "job", "suspended", "-p", '{"spec":{"suspend":false}}')
    user.wait("condition=Complete", "job/suspended")
