"""How containers begin, end and begin again: init containers, restart policies, probes, termination, logs."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.user import User, alive, container_pids, until

pytestmark = pytest.mark.integration


def pod(name: str, *containers: dict[str, object], policy: str = "Never", **spec: object) -> str:
    spec = {"restartPolicy": policy, "containers": [{"image": "any"} | one for one in containers]} | spec
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}) + "\n"


def shell(script: str, name: str = "main", **fields: Any) -> dict[str, object]:
    return {"name": name, "image": "any", "command": ["sh", "-c", script], **fields}


SHARED: dict[str, Any] = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
SHARED_VOLUME = [{"name": "shared", "emptyDir": {}}]
SOMEBODY = os.geteuid() or 65534  # only root can run containers of others
TERMINATES = 'exec 2>/dev/null; trap "{}" TERM; echo up; while :; do sleep 0.1; done'
SERVER = {"command": ["python3", "-m", "http.server", "8080", "--bind", "$(IP)", "--directory", "/shared"]}
POD_IP = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]


def probe(**handler: object) -> dict[str, object]:
    return {"periodSeconds": 1, "failureThreshold": 2, **handler}


MANIFEST = "".join(
    (
        pod(
            "inits",
            shell("cat /shared/order", **SHARED),
            initContainers=[shell(f"sleep 0.3; echo {one} >> /shared/order", one, **SHARED) for one in ("a", "b", "c")],
            volumes=SHARED_VOLUME,
        ),
        pod(
            "bad-init", shell("echo never"), initContainers=[shell("echo no; exit 3", "first"), shell("true", "second")]
        ),
        pod("crashing-init", shell("echo never"), policy="Always", initContainers=[shell("exit 4", "first")]),
        pod("succeeds", shell("exit 0")),
        pod("fails", shell("echo -n too bad > /dev/termination-log; exit 42")),
        pod(
            "sidecar",
            shell(
                'sleep 1; echo "of user $(id -u)" > /dev/stderr; exit 2',
                terminationMessagePolicy="FallbackToLogsOnError",
            ),
            initContainers=[shell("while :; do echo beside; sleep 0.5; done", "beside", restartPolicy="Always")],
            securityContext={"runAsUser": SOMEBODY},
        ),
        pod("late", shell("exec sleep 1000"), activeDeadlineSeconds=3, terminationGracePeriodSeconds=1),
        pod("killed", shell("kill -9 $$$$")),
        pod(
            "on-failure",
            shell(
                'n=$(cat /shared/n 2>/dev/null || echo 0); echo run $n; echo $((n+1)) > /shared/n; [ "$n" = 1 ]',
                **SHARED,
            ),
            policy="OnFailure",
            volumes=SHARED_VOLUME,
        ),
        pod("crash-loop", shell("echo one life; exit 7"), policy="Always"),
        pod(
            "two",
            shell("for i in 1 2 3 4 5; do echo out $i; done; echo err >&2; exec sleep 1000", "left"),
            shell("while :; do date +%s%N; sleep 0.2; done", "right"),
            terminationGracePeriodSeconds=1,
        ),
        # A pod for each: of one object no more than 25 Events at once are written.
        *(
            pod(
                f"unhealthy-{container['name']}",
                container,
                shell("exec sleep 1000", "well", livenessProbe=probe(exec={"command": ["true"]})),
                policy="Always",
                terminationGracePeriodSeconds=0,
                volumes=SHARED_VOLUME,
            )
            for container in (
                {"name": "http", **SERVER, "env": POD_IP, **SHARED}
                | {
                    "livenessProbe": probe(httpGet={"path": "/missing", "port": 8080}),
                    "startupProbe": probe(tcpSocket={"port": 8080}),
                },
                shell("exec sleep 1000", "tcp", livenessProbe=probe(tcpSocket={"port": 8081})),
                shell(
                    "exec sleep 1000", "exec", livenessProbe=probe(exec={"command": ["sh", "-c", "echo sick; exit 1"]})
                ),
            )
        ),
        pod(
            "slow-start",
            shell(
                "sleep 3; touch /shared/started; exec sleep 1000",
                startupProbe=probe(exec={"command": ["test", "-e", "/shared/started"]}) | {"failureThreshold": 30},
                # One failure is enough, and on a busy machine a second passes before a program has begun.
                livenessProbe=probe(exec={"command": ["test", "-e", "/shared/started"]})
                | {"failureThreshold": 1, "timeoutSeconds": 30},
                **SHARED,
            ),
            volumes=SHARED_VOLUME,
            terminationGracePeriodSeconds=0,
            policy="Always",
        ),
        pod(
            "polite",
            shell(TERMINATES.format("cat /shared/hook; echo term; sleep 1; echo bye; exit 5"), **SHARED)
            | {"lifecycle": {"preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo hook > /shared/hook"]}}}},
            terminationGracePeriodSeconds=20,
            volumes=SHARED_VOLUME,
        ),
        pod("stubborn", shell(TERMINATES.format("echo ignored")), terminationGracePeriodSeconds=2),
        pod("forced", shell(TERMINATES.format("echo ignored")), terminationGracePeriodSeconds=300),
    )
)


@pytest.fixture(scope="module", autouse=True)
def applied(user: User) -> None:
    user.apply(MANIFEST)


def ended(user: User, name: str) -> dict[str, object]:
    state: dict[str, object] = user.get("pod", name)["status"]["containerStatuses"][0]["state"]["terminated"]
    return state


def test_init_containers_run_one_after_the_other(user: User) -> None:
    user.wait_phase("Succeeded", "inits")
    assert user("logs", "inits").split() == ["a", "b", "c"]
    found = user.get("pod", "inits")["status"]
    assert [one["state"]["terminated"]["reason"] for one in found["initContainerStatuses"]] == ["Completed"] * 3


def test_a_failing_init_container_fails_a_pod_that_never_restarts(user: User) -> None:
    user.wait_phase("Failed", "bad-init")
    row = user.row("get", "pod", "bad-init")
    assert (row["READY"], row["STATUS"]) == ("0/1", "Init:Error")
    status = user.get("pod", "bad-init")["status"]
    assert status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 3
    assert status["initContainerStatuses"][1]["state"]["waiting"]["reason"] == "PodInitializing"
    assert user("logs", "bad-init", "-c", "first") == "no\n"
    refused = user.run("logs", "bad-init")
    assert refused.returncode == 1
    assert 'container "main" in pod "bad-init" is waiting to start: PodInitializing' in refused.stderr


def test_exit_codes_reasons_and_messages(user: User) -> None:
    user.wait_phase("Succeeded", "succeeds")
    user.wait_phase("Failed", "fails", "killed")
    assert user.row("get", "pod", "succeeds")["STATUS"] == "Completed"
    assert user.row("get", "pod", "fails")["STATUS"] == "Error"
    state = ended(user, "fails")
    assert (state["exitCode"], state["reason"], state["message"]) == (42, "Error", "too bad")
    assert ended(user, "succeeds")["exitCode"] == 0
    assert ended(user, "killed")["exitCode"] == 137
    conditions = {one["type"]: one for one in user.get("pod", "succeeds")["status"]["conditions"]}
    assert conditions["Ready"]["reason"] == "PodCompleted"


def test_a_sidecar_runs_beside_the_others_and_ends_after_them(user: User) -> None:
    user.wait_phase("Failed", "sidecar")
    status = user.get("pod", "sidecar")["status"]
    assert ended(user, "sidecar")["message"] == f"of user {SOMEBODY}"
    assert "beside" in user("logs", "sidecar", "-c", "beside")
    [beside] = status["initContainerStatuses"]
    assert beside["state"]["terminated"]["finishedAt"] >= ended(user, "sidecar")["finishedAt"]


def test_a_pod_past_its_deadline_is_stopped(user: User) -> None:
    user.wait_phase("Failed", "late")
    status = user.get("pod", "late")["status"]
    assert (status["reason"], status["message"]) == (
        "DeadlineExceeded",
        "Pod was active on the node longer than the specified deadline",
    )
    assert not container_pids(user, "late")


def test_restart_on_failure_ends_with_success(user: User) -> None:
    user.wait_phase("Succeeded", "on-failure")
    status = user.get("pod", "on-failure")["status"]["containerStatuses"][0]
    assert status["restartCount"] == 1
    assert user("logs", "on-failure") == "run 1\n"
    assert user("logs", "on-failure", "--previous") == "run 0\n"


def test_a_crash_loop_backs_off(user: User) -> None:
    until("back-off", lambda: user.row("get", "pod", "crash-loop")["STATUS"] == "CrashLoopBackOff")
    until("back-off of init", lambda: user.row("get", "pod", "crashing-init")["STATUS"] == "Init:CrashLoopBackOff")
    row = user.row("get", "pod", "crash-loop")
    assert int(row["RESTARTS"].split()[0]) >= 1
    assert row["RESTARTS"].endswith("ago)")
    seen = []

    def backs_off() -> bool:
        seen.append(user.get("pod", "crash-loop"))  # between the row and this it may have had another life
        return "waiting" in seen[-1]["status"]["containerStatuses"][0]["state"]

    until("back-off again", backs_off)
    found = seen[-1]
    status = found["status"]["containerStatuses"][0]
    assert found["status"]["phase"] == "Running"
    assert status["state"]["waiting"]["message"].startswith("back-off ")
    assert status["state"]["waiting"]["message"].endswith(
        f"restarting failed container=main pod=crash-loop_{user.namespace}({found['metadata']['uid']})"
    )
    assert status["lastState"]["terminated"]["exitCode"] == 7
    assert user("logs", "crash-loop", "--previous") == "one life\n"
    described = user("describe", "pod", "crash-loop")
    assert "BackOff" in described and "Back-off restarting failed container main in pod crash-loop" in described


def test_logs_of_several_containers(user: User, tmp_path: Path) -> None:
    user.wait("condition=Ready", "pod/two")
    lines = [f"out {number}" for number in range(1, 6)] + ["err"]
    until("all lines", lambda: len(user("logs", "two", "-c", "left").splitlines()) == 6)
    assert sorted(user("logs", "two", "-c", "left").splitlines()) == sorted(lines)
    assert 'Defaulted container "left" out of: left, right' in user.run("logs", "two").stderr
    assert len(user("logs", "two", "-c", "left", "--tail=2").splitlines()) == 2
    assert user("logs", "two", "-c", "left", "--limit-bytes=5") == "out 1"
    stamp, _, line = user("logs", "two", "-c", "left", "--timestamps").splitlines()[0].partition(" ")
    assert stamp.startswith("20") and stamp.endswith("Z") and line == "out 1"
    assert "out 1" in user("logs", "two", "--all-containers", "--prefix")
    missing = user.run("logs", "two", "-c", "middle")
    assert missing.returncode == 1 and "container middle is not valid for pod two" in missing.stderr
    until("three seconds of lines", lambda: len(user("logs", "two", "-c", "right").splitlines()) > 15)
    recent = [int(line) for line in user("logs", "two", "-c", "right", "--since=1s").splitlines()]
    everything = [int(line) for line in user("logs", "two", "-c", "right").splitlines()]
    assert 1 <= len(recent) < len(everything)
    assert recent[0] > time.time_ns() - 5e9
    output = tmp_path / "followed"
    following = user.watching("logs", "-f", "--tail=1", "two", "-c", "right", output=output)
    try:
        until("followed lines", lambda: len(output.read_text().splitlines()) >= 6)
        user("delete", "pod", "two", "--wait=false")
        assert following.wait(20) == 0, "the stream ends with the container"
    finally:
        following.kill()
        following.wait()


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("http", "Liveness probe failed: HTTP probe failed with statuscode: 404"),
        ("tcp", "Liveness probe failed: dial tcp"),
        ("exec", "Liveness probe failed: sick"),
    ],
)
def test_liveness_probes_restart_what_fails_them(user: User, name: str, failure: str) -> None:
    pod = f"unhealthy-{name}"

    def restarts() -> dict[str, int]:
        statuses = user.get("pod", pod)["status"].get("containerStatuses") or []
        return {one["name"]: one["restartCount"] for one in statuses}

    until("a restart", lambda: restarts().get(name, 0) >= 1)
    assert restarts()["well"] == 0

    def is_told() -> bool:
        described = user("describe", "pod", pod)  # events come after the status that they explain
        return failure in described and f"Container {name} failed liveness probe, will be restarted" in described

    until("both events", is_told)
    user("delete", "pod", pod, "--wait=false")


def test_a_startup_probe_holds_the_others_back(user: User) -> None:
    user.wait("condition=Ready", "pod/slow-start")
    status = user.get("pod", "slow-start")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["started"]) == (0, True)


def test_a_deleted_pod_gets_its_pre_stop_hook_and_time(user: User, tmp_path: Path) -> None:
    user.wait("condition=Ready", "pod/polite")
    output = tmp_path / "followed"
    following = user.watching("logs", "-f", "polite", output=output)
    until("the log", lambda: "up" in output.read_text())
    begun = time.monotonic()
    user("delete", "pod", "polite")
    took = time.monotonic() - begun
    assert following.wait(10) == 0
    assert output.read_text().split() == ["up", "hook", "term", "bye"]
    assert 1.5 < took < 15
    assert user.run("get", "pod", "polite").stderr == 'Error from server (NotFound): pods "polite" not found\n'


def test_a_pod_that_ignores_term_is_killed_after_its_grace_period(user: User) -> None:
    user.wait("condition=Ready", "pod/stubborn")
    pids = container_pids(user, "stubborn")
    assert pids
    begun = time.monotonic()
    user("delete", "pod", "stubborn", "--wait=false")
    assert user.row("get", "pod", "stubborn")["STATUS"] == "Terminating"
    user.wait("delete", "pod/stubborn")
    assert time.monotonic() - begun > 1.5
    until("no processes", lambda: not any(alive(pid) for pid in pids), 10)


def test_a_forced_deletion_does_not_wait(user: User) -> None:
    user.wait("condition=Ready", "pod/forced")
    pids = container_pids(user, "forced")
    assert pids
    user("delete", "pod", "forced", "--force", "--grace-period=0")
    assert user.run("get", "pod", "forced").returncode == 1
    until("no processes", lambda: not any(alive(pid) for pid in pids), 15)
