"""The pod state machine against a runtime that is a list: tables, and properties over random histories."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.base.clock import rfc3339
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.lostruns import with_lost_runs
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, ObservedSandbox, State
from raykube.kubelet.core.plan import Plan, plan
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.probes import ProbeResults, Threshold
from raykube.kubelet.core.restart_backoff import RestartBackoff
from raykube.kubelet.core.status import Inputs, NodeFacts, pod_status


def rule(action: str, operator: str, *codes: int) -> Object:
    return {"action": action, "exitCodes": {"operator": operator, "values": list(codes)}}


FACTS = NodeFacts(("10.0.0.1",), "test")


def make_pod(policy: str = "Always", containers: tuple[str, ...] = ("c",), inits: tuple[str, ...] = ()) -> Object:
    """Names of `inits` that begin with "side" are sidecars."""
    return {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
        "spec": {
            "restartPolicy": policy,
            "containers": [{"name": name} for name in containers],
            "initContainers": [
                {"name": name} | ({"restartPolicy": "Always"} if name.startswith("side") else {}) for name in inits
            ],
        },
        "status": {},
    }


@dataclass
class World:
    """A pod, its runtime, and whoever carries plans out."""

    pod: Object
    now: float = 1000.0
    sandboxes: list[ObservedSandbox] = field(default_factory=list)
    runs: list[ObservedContainer] = field(default_factory=list)
    probes: ProbeResults = field(default_factory=ProbeResults)
    backoff: RestartBackoff = field(default_factory=RestartBackoff)
    terminating: bool = False
    last: Plan = field(default_factory=Plan)

    @property
    def observed(self) -> ObservedPod:
        return ObservedPod(tuple(reversed(self.sandboxes)), tuple(reversed(self.runs)))

    def running(self) -> list[str]:
        return [run.name for run in self.runs if run.state is State.RUNNING]

    def end(self, name: str, code: int) -> None:
        for index, run in enumerate(self.runs):
            if run.name == name and run.state is State.RUNNING:
                self.runs[index] = replace(run, state=State.EXITED, exit_code=code, finished_at=self.now)

    def lose_sandbox(self) -> None:
        if self.sandboxes:
            self.sandboxes[-1] = replace(self.sandboxes[-1], ready=False)
            for run in list(self.runs):
                self.end(run.name, 137)

    def step(self) -> Plan:
        """Plans and carries out."""
        hashes: dict[str, str] = {}
        found = plan(self.pod, self.observed, self.probes, self.backoff, hashes, self.now, self.terminating)
        if found.stop_pod:
            for run in list(self.runs):
                self.end(run.name, 137)
            self.sandboxes = [replace(one, ready=False) for one in self.sandboxes]
        if found.new_sandbox:
            assert not self.running()
            assert not any(one.ready for one in self.sandboxes)
            attempt = found.sandbox_attempt
            self.sandboxes.append(ObservedSandbox(f"s{attempt}", attempt, True, "10.1.0.1", self.now))
        for kill in found.kills:
            self.end(kill.name, 137)
        for start in found.starts:
            assert start.name not in self.running(), "started twice"
            earlier = [run for run in self.runs if run.name == start.name]
            assert start.attempt == (earlier[-1].attempt + 1 if earlier else 0)
            if start.after is not None:
                self.backoff.restarted(start.name, start.after, self.now)
            self.runs.append(
                ObservedContainer(
                    f"{start.name}-{start.attempt}",
                    start.name,
                    self.sandboxes[-1].id,
                    start.attempt,
                    State.RUNNING,
                    self.now,
                    self.now,
                )
            )
        self.last = found
        self.pod = self.pod | {"status": self.status()}
        return found

    def settle(self) -> None:
        for _ in range(20):
            if self.step().idle:
                return
        raise AssertionError(f"does not settle: {self.last}")

    def status(self) -> Object:
        waiting = {one.name: one for one in self.last.waiting}
        return pod_status(Inputs(self.pod, self.observed, self.probes, waiting, started_at=1000.0), FACTS, self.now)

    @property
    def phase(self) -> str:
        return pods.phase(self.pod)


def test_a_pod_starts() -> None:
    world = World(make_pod())
    assert world.step().new_sandbox
    assert [start.name for start in world.step().starts] == ["c"]
    assert world.step().idle
    assert world.phase == "Running"


def test_a_container_that_could_not_start_has_times_all_the_same() -> None:
    world = World(make_pod(policy="Never"))
    world.settle()
    world.runs[-1] = replace(world.runs[-1], started_at=0.0)
    world.end("c", 128)
    world.settle()
    terminated = world.status()["containerStatuses"][0]["state"]["terminated"]
    assert (terminated["startedAt"], terminated["finishedAt"]) == ("1970-01-01T00:00:00Z", "1970-01-01T00:16:40Z")


def test_init_containers_come_one_by_one() -> None:
    world = World(make_pod(inits=("a", "b")))
    world.settle()
    assert world.running() == ["a"]
    assert world.phase == "Pending"
    world.end("a", 0)
    world.settle()
    assert world.running() == ["b"]
    world.end("b", 0)
    world.settle()
    assert world.running() == ["c"]


def test_an_init_container_whose_run_was_cleaned_away_does_not_run_again() -> None:
    world = World(make_pod(inits=("a", "b")))
    world.settle()
    world.end("a", 0)
    world.settle()
    assert world.running() == ["b"]
    world.runs = [run for run in world.runs if run.name != "a"]
    world.end("b", 0)
    world.settle()
    assert world.running() == ["c"]


def test_a_sidecar_is_started_first_and_restarted_always() -> None:
    world = World(make_pod("Never", inits=("side", "a")))
    world.settle()
    assert world.running() == ["side", "a"]
    world.end("a", 0)
    world.settle()
    assert world.running() == ["side", "c"]
    world.end("side", 0)
    world.settle()
    assert world.running() == ["c", "side"]
    world.end("c", 0)
    world.settle()
    assert world.running() == []
    assert world.phase == "Succeeded"


def test_a_started_probe_holds_the_next_init_container_back() -> None:
    pod = make_pod(inits=("side", "a"))
    pod["spec"]["initContainers"][0]["startupProbe"] = {"exec": {}}
    world = World(pod)
    world.settle()
    assert world.running() == ["side"]
    world.probes.set("side-0", "startupProbe", True)
    world.settle()
    assert world.running() == ["side", "a"]


@pytest.mark.parametrize(
    ("policy", "code", "phase", "restarts"),
    [
        ("Always", 0, "Running", True),
        ("Always", 1, "Running", True),
        ("OnFailure", 0, "Succeeded", False),
        ("OnFailure", 1, "Running", True),
        ("Never", 0, "Succeeded", False),
        ("Never", 1, "Failed", False),
    ],
)
def test_restart_policy(policy: str, code: int, phase: str, restarts: bool) -> None:
    world = World(make_pod(policy))
    world.settle()
    world.end("c", code)
    world.settle()
    assert (world.running() == ["c"]) is restarts
    assert world.phase == phase


RULES: list[tuple[str, Object, int, str, bool]] = [
    # the pod's policy, the container's own, exit code → phase, whether it runs again
    ("Never", {"restartPolicy": "Always"}, 0, "Running", True),
    ("Always", {"restartPolicy": "Never"}, 1, "Failed", False),
    ("Always", {"restartPolicy": "Never"}, 0, "Succeeded", False),
    ("Never", {"restartPolicy": "OnFailure"}, 1, "Running", True),
    ("Never", {"restartPolicy": "OnFailure"}, 0, "Succeeded", False),
    ("Always", {"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "In", 42, 43)]}, 42, "Running", True),
    ("Always", {"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "In", 42, 43)]}, 1, "Failed", False),
    ("Never", {"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "NotIn", 0)]}, 7, "Running", True),
    ("Never", {"restartPolicy": "Never", "restartPolicyRules": [rule("Restart", "NotIn", 0)]}, 0, "Succeeded", False),
]


@pytest.mark.parametrize(("policy", "own", "code", "phase", "restarts"), RULES)
def test_a_containers_own_restart_policy_and_rules(
    policy: str, own: Object, code: int, phase: str, restarts: bool
) -> None:
    pod = make_pod(policy)
    pod["spec"]["containers"][0] |= own
    world = World(pod)
    world.settle()
    world.end("c", code)
    world.settle()
    assert (world.running() == ["c"]) is restarts
    assert world.phase == phase


def test_an_init_container_that_is_tried_once() -> None:
    pod = make_pod("Always", inits=("try",))
    pod["spec"]["initContainers"][0]["restartPolicy"] = "Never"
    world = World(pod)
    world.step()
    world.step()
    world.end("try", 1)
    world.settle()
    assert (world.running(), world.phase) == ([], "Failed")


def test_one_container_goes_on_where_another_is_done() -> None:
    pod = make_pod("Never", containers=("once", "again"))
    pod["spec"]["containers"][1]["restartPolicy"] = "Always"
    world = World(pod)
    world.settle()
    world.end("once", 0)
    world.end("again", 0)
    world.settle()
    assert (world.running(), world.phase) == (["again"], "Running")


def test_a_rule_begins_the_pod_anew_in_its_sandbox() -> None:
    pod = make_pod("Never", containers=("work", "watch"), inits=("fetch", "side"))
    pod["spec"]["containers"][0] |= {
        "restartPolicy": "Never",
        "restartPolicyRules": [rule("RestartAllContainers", "In", 88)],
    }
    world = World(pod)
    for _ in range(2):
        world.step()
    world.end("fetch", 0)
    world.settle()
    assert sorted(world.running()) == ["side", "watch", "work"]
    world.now += 10
    world.end("work", 88)
    kills = world.step().kills
    assert sorted((kill.name, kill.hooks) for kill in kills) == [("side", False), ("watch", False)]
    assert shown(world, "AllContainersRestarting") == "True"
    world.now += 1
    assert [start.name for start in world.step().starts] == ["fetch"]
    assert world.phase == "Running"
    world.now += 1
    world.end("fetch", 0)
    world.settle()
    assert sorted(world.running()) == ["side", "watch", "work"]
    assert len(world.sandboxes) == 1
    assert {run.name: run.attempt for run in world.runs} == dict.fromkeys(("fetch", "side", "watch", "work"), 1)
    assert shown(world, "AllContainersRestarting") == "False"
    # The next time it waits, as any container that crashes, and so do the others.
    world.now += 5
    world.end("work", 88)
    world.settle()
    assert (world.running(), {one.reason for one in world.last.waiting}) == ([], {"CrashLoopBackOff"})
    assert world.phase == "Running"
    # Another end of it is the pod's.
    world.now = world.last.wake_at or 0.0
    world.settle()
    world.end("fetch", 0)
    for _ in range(3):
        world.now += 20
        world.settle()
    assert sorted(world.running()) == ["side", "watch", "work"]
    world.now += 1
    for name in ("work", "watch"):
        world.end(name, 0)
    world.settle()
    assert (world.running(), world.phase) == ([], "Succeeded")


def shown(world: World, kind: str) -> str:
    return next((str(one["status"]) for one in world.status()["conditions"] if one["type"] == kind), "")


def test_back_off_doubles_and_is_forgotten() -> None:
    world = World(make_pod())
    world.settle()
    waits = []
    for _ in range(8):
        world.end("c", 1)
        world.settle()
        waits.append((world.last.wake_at or world.now) - world.now)
        if waits[-1]:
            (waiting,) = world.last.waiting
            assert waiting.reason == "CrashLoopBackOff"
            assert world.running() == []
        world.now += waits[-1]
        world.settle()
        assert world.running() == ["c"]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]
    world.now += 601
    world.end("c", 1)
    world.settle()
    assert world.running() == ["c"]


def test_back_off_message() -> None:
    world = World(make_pod())
    for _ in range(2):
        world.settle()
        world.end("c", 1)
    world.settle()
    assert world.last.waiting[0].message == "back-off 10s restarting failed container=c pod=p_ns(u)"


def test_nobody_says_when_a_lost_run_ended() -> None:
    """A Job takes the time for its failure's: one at the beginning of time is before any success, and waits for
    none."""
    world = World(make_pod("Never"))
    world.settle()
    status = world.status()
    for _ in range(2):
        lost = with_lost_runs(ObservedPod(), status)
        status = pod_status(Inputs(world.pod | {"status": status}, lost, world.probes), FACTS, world.now)
        assert status["phase"] == "Failed"
        (ended,) = [one["state"]["terminated"] for one in status["containerStatuses"]]
        assert "finishedAt" not in ended
        assert ended["startedAt"] == rfc3339(world.now)


def test_a_lost_sandbox_starts_the_pod_anew() -> None:
    world = World(make_pod(inits=("a",)))
    world.settle()
    world.end("a", 0)
    world.settle()
    world.lose_sandbox()
    world.settle()
    assert world.running() == ["a"]
    world.end("a", 0)
    world.settle()
    assert world.running() == ["c"]
    assert [one.attempt for one in world.sandboxes] == [0, 1]


def test_liveness_kills_and_restarts() -> None:
    pod = make_pod()
    pod["spec"]["containers"][0]["livenessProbe"] = {"exec": {}}
    world = World(pod)
    world.settle()
    world.probes.set("c-0", "livenessProbe", False)
    (kill,) = world.step().kills
    assert kill.message == "Container c failed liveness probe, will be restarted"
    world.settle()
    assert [run.attempt for run in world.runs] == [0, 1]


def test_thresholds() -> None:
    threshold = Threshold.of("readinessProbe", {"successThreshold": 2, "failureThreshold": 2})
    changes = [threshold.on_result(result) for result in (True, True, False, True, False, False)]
    assert changes == [False, True, False, False, False, True]
    assert threshold.result is False


ACTIONS = st.one_of(
    st.tuples(st.just("end"), st.sampled_from(["c", "d", "a", "b", "side"]), st.sampled_from([0, 1, 137])),
    st.tuples(st.just("wait"), st.sampled_from([0.1, 5.0, 30.0, 400.0, 1000.0]), st.just(0)),
    st.tuples(st.just("lose"), st.just(""), st.just(0)),
    st.tuples(st.just("unhealthy"), st.sampled_from(["c", "d"]), st.just(0)),
    st.tuples(st.just("step"), st.just(""), st.just(0)),
    st.tuples(st.just("delete"), st.just(""), st.just(0)),
)


@settings(max_examples=400, deadline=None)
@given(
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    inits=st.sampled_from([(), ("a",), ("a", "b"), ("side",), ("side", "a"), ("a", "side", "b")]),
    actions=st.lists(ACTIONS, max_size=25),
)
def test_whatever_happens(policy: str, inits: tuple[str, ...], actions: list[tuple[str, Any, int]]) -> None:
    """Nothing runs twice; a finished pod stays finished; a deleted one only ends; every plan converges."""
    world = World(make_pod(policy, ("c", "d"), inits))
    for action, argument, code in actions:
        before, runs = world.phase, len(world.runs)
        if action == "end":
            world.end(argument, code)
        elif action == "wait":
            world.now += argument
        elif action == "lose":
            world.lose_sandbox()
        elif action == "unhealthy":
            for run in world.observed.running:
                if run.name == argument:
                    world.probes.set(run.id, "livenessProbe", False)
        elif action == "delete":
            world.terminating = True
        world.step()
        if before in pods.TERMINAL_PHASES:
            assert world.phase == before
        if before in pods.TERMINAL_PHASES or world.terminating:
            assert len(world.runs) == runs, "a pod that ends starts nothing"
        for name in {run.name for run in world.runs}:
            assert sum(run.name == name and run.state is State.RUNNING for run in world.runs) <= 1
        if any(name in world.running() for name in ("c", "d")):
            ended = {run.name for run in world.runs if run.state is State.EXITED and run.exit_code == 0}
            assert {name for name in inits if not name.startswith("side")} <= ended
    world.settle()
    if world.terminating or world.phase in pods.TERMINAL_PHASES:
        assert not world.running()
    elif policy == "Always":
        waiting = {one.name for one in world.last.waiting}
        assert waiting or world.running()


def test_a_status_computed_twice_is_the_same() -> None:
    world = World(make_pod(inits=("a",)))
    world.settle()
    world.now += 100
    assert world.status() == world.pod["status"]


def test_a_container_that_always_restarts_may_restart_all() -> None:
    """Only of an init container does that policy make a sidecar, which has no rules."""
    world = World(make_pod("Never", ("c", "d"), ("a",)))
    world.pod["spec"]["containers"][0] |= {
        "restartPolicy": "Always",
        "restartPolicyRules": [rule("RestartAllContainers", "In", 88)],
    }
    world.settle()
    world.end("a", 0)
    world.settle()
    assert sorted(world.running()) == ["c", "d"]
    world.now += 10
    world.end("c", 88)
    assert [kill.name for kill in world.step().kills] == ["d"]


def test_a_sidecar_that_ended_well_is_not_ready() -> None:
    world = World(make_pod(inits=("a", "side")))
    world.settle()
    world.end("a", 0)
    world.settle()
    world.end("side", 0)
    status = world.status()
    assert [one["ready"] for one in status["initContainerStatuses"]] == [True, False]
    assert next(one["status"] for one in status["conditions"] if one["type"] == "Ready") == "False"


def test_an_ephemeral_container_starts_once() -> None:
    world = World(make_pod(inits=("a",)))
    world.settle()
    assert world.running() == ["a"]  # be the others well or not
    world.pod["spec"]["ephemeralContainers"] = [{"name": "eye"}]
    world.settle()
    assert sorted(world.running()) == ["a", "eye"]
    world.end("eye", 3)
    world.settle()
    assert world.running() == ["a"]
    (status,) = world.status()["ephemeralContainerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 3
    assert (status["restartCount"], status["ready"]) == (0, False)
    world.end("a", 0)
    world.settle()
    world.end("c", 0)
    assert world.phase in ("Pending", "Running")


@pytest.mark.parametrize("name", ["c", "side"])
def test_who_may_still_run_is_stopped_before_it_runs_again(name: str) -> None:
    world = World(make_pod(inits=("side",)))
    world.settle()
    index = next(number for number, run in enumerate(world.runs) if run.name == name)
    world.runs[index] = replace(world.runs[index], state=State.UNKNOWN)
    found = world.step()
    assert [kill.name for kill in found.kills] == [name]
    assert name not in [start.name for start in found.starts]
    world.runs[index] = replace(world.runs[index], state=State.EXITED, exit_code=137, finished_at=world.now)
    world.settle()
    assert sorted(world.running()) == ["c", "side"]
