"""Preemption: transcripts, and the victims of random clusters against a dumb twin."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raykube.scheduler.core import preemption
from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from tests.kit.transcript import Step, play
from tests.scheduler.objects import node, pod, pod_affinity, pod_term, spread
from tests.scheduler.preemption_model import Model

Object = dict[str, Any]
DATA = Path(__file__).parent / "testdata"


class Played:
    """Commands of a transcript on one cluster.

    node NAME cpu=4 pods=110 taint=KEY · pod NAME cpu=1 priority=0 node=NODE start=MINUTE label=x nominated=NODE
    budget NAME label=x allowed=0 · gone NAME · empty CLUSTER
    """

    def __init__(self) -> None:
        self.cluster = Cluster()

    def __call__(self, step: Step) -> str:
        name, *rest = step.arguments
        options = dict(item.split("=", 1) for item in rest)
        return str(getattr(self, step.command)(name, options))

    def node(self, name: str, options: dict[str, str]) -> str:
        taints = [(options["taint"], "", "NoSchedule")] if "taint" in options else []
        extra = {"example.com/gpu": options["gpu"]} if "gpu" in options else {}
        made = node(name, options.get("cpu", "4"), pods=options.get("pods", "110"), taints=taints, extra=extra)
        self.cluster.on_node(made)
        return ""

    def pod(self, name: str, options: dict[str, str]) -> str:
        made = made_pod(name, options)
        read = self.cluster.read_pod(made)
        if read.node:
            self.cluster.on_pod(read)
            return ""
        self.cluster.preemption.nominations.on_pod(read)
        if "waits" in options:
            return ""
        found = self.cluster.schedule(read)
        if isinstance(found, Placement):
            return f"placed on {found.node}"
        said = [found.message]
        if found.eviction is not None:
            victims = " ".join(each.name for each in found.eviction.victims) or "leave already"
            said.append(
                f"promised {found.eviction.node}, victims {victims}, {found.eviction.violations} budgets broken"
            )
            if found.eviction.cleared:
                said.append(f"no more promised: {' '.join(each.name for each in found.eviction.cleared)}")
        if found.unpromised:
            said.append("no more promised")
        return "\n".join(said)

    def budget(self, name: str, options: dict[str, str]) -> str:
        self.cluster.preemption.budgets.on_budget("d", name, made_budget(options["label"], int(options["allowed"])))
        return ""

    def empty(self, name: str, options: dict[str, str]) -> str:
        self.cluster = Cluster()
        return ""

    def gone(self, name: str, options: dict[str, str]) -> str:
        self.cluster.on_pod_gone(f"uid-{name}")
        return ""


def made_pod(name: str, options: dict[str, str]) -> Object:
    more: Object = {"priority": int(options.get("priority", "0"))}
    if "policy" in options:
        more["preemptionPolicy"] = options["policy"]
    if "port" in options:
        more["ports"] = [int(options["port"])]
    if "gpu" in options:
        more["extra"] = {"example.com/gpu": options["gpu"]}
    if "away" in options:
        more["affinity"] = pod_affinity(away=[pod_term("kubernetes.io/hostname", {"app": options["away"]})])
    labels = {"app": options["label"]} if "label" in options else {}
    made = pod(name, options.get("cpu", ""), labels=labels, **more)
    if "node" in options:
        made["spec"]["nodeName"] = options["node"]
    if "nominated" in options:
        made["status"]["nominatedNodeName"] = options["nominated"]
    if "start" in options:
        made["status"]["startTime"] = f"2026-01-01T00:{int(options['start']):02}:00Z"
    if "terminating" in options:
        made["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z"
    return made


def made_budget(label: str, allowed: int) -> Object:
    return {"spec": {"selector": {"matchLabels": {"app": label}}}, "status": {"disruptionsAllowed": allowed}}


@pytest.mark.parametrize("name", ["victims", "choice", "promises", "messages"])
def test_transcript(name: str, rewrite: bool) -> None:
    play(DATA / f"preemption_{name}.txt", Played(), rewrite)


amounts = st.sampled_from(["", "1", "2", "3"])
running = st.fixed_dictionaries(
    {
        "node": st.integers(0, 3),
        "cpu": amounts,
        "priority": st.sampled_from([0, 0, 5, 10, 20]),
        "start": st.sampled_from([None, *range(10)]),
        "label": st.sampled_from(["", "a", "b"]),
        "port": st.sampled_from([0, 0, 0, 80]),
        "gpu": st.sampled_from(["", "", "1"]),
        "away": st.sampled_from(["", "", "", "x"]),
    }
)
incoming = st.fixed_dictionaries(
    {
        "cpu": amounts,
        "priority": st.sampled_from([5, 10, 15]),
        "label": st.sampled_from(["", "x"]),
        "port": st.sampled_from([0, 0, 80]),
        "gpu": st.sampled_from(["", "", "1", "3"]),
        "away": st.sampled_from(["", "", "a"]),
        "near": st.sampled_from(["", "", "", "b"]),
        "spread": st.sampled_from(["", "", "", "x"]),
    }
)
promised = st.fixed_dictionaries(
    {"node": st.integers(0, 3), "cpu": amounts, "priority": st.sampled_from([5, 10, 15, 20])}
)
clusters = st.fixed_dictionaries(
    {
        "nodes": st.lists(
            st.fixed_dictionaries(
                {
                    "cpu": st.sampled_from(["2", "4", "6"]),
                    "pods": st.sampled_from(["3", "110"]),
                    "gpu": st.sampled_from(["", "2"]),
                    "taint": st.sampled_from([False, False, False, True]),
                }
            ),
            min_size=1,
            max_size=4,
        ),
        "running": st.lists(running, max_size=10),
        "incoming": st.lists(incoming, min_size=1, max_size=4),
        "promised": st.lists(promised, max_size=2),
        "budgets": st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=2),
        "late": st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9)), max_size=4),
    }
)


def described(name: str, about: Object, **more: Any) -> Object:
    labels = {"app": about["label"]} if about.get("label") else {}
    extra = {"example.com/gpu": about["gpu"]} if about.get("gpu") else {}
    host = "kubernetes.io/hostname"
    near = [pod_term(host, {"app": about["near"]})] if about.get("near") else None
    away = [pod_term(host, {"app": about["away"]})] if about.get("away") else None
    if near or away:
        more["affinity"] = pod_affinity(near, away)
    if about.get("spread"):
        more["topologySpreadConstraints"] = [spread(host, 1, {"app": about["spread"]})]
    if about.get("port"):
        more["ports"] = [about["port"]]
    made = pod(name, about["cpu"], labels=labels, extra=extra, priority=about["priority"], **more)
    if about.get("start") is not None:
        made["status"]["startTime"] = f"2026-01-01T00:00:{about['start']:02}Z"
    return made


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clusters)
def test_victims_and_messages_are_those_of_the_dumb_twin(drawn: Object) -> None:
    play_cluster(drawn)


crowds = st.fixed_dictionaries(
    {
        "nodes": st.lists(
            st.fixed_dictionaries(
                {
                    "cpu": st.sampled_from(["4", "6"]),
                    "pods": st.sampled_from(["3", "4", "110"]),
                    "gpu": st.sampled_from(["", "2"]),
                    "taint": st.just(False),
                }
            ),
            min_size=2,
            max_size=4,
        ),
        "running": st.lists(
            st.fixed_dictionaries(
                {
                    "node": st.integers(0, 3),
                    "cpu": st.sampled_from(["1", "2", "3"]),
                    "priority": st.sampled_from([0, 0, 1, 2, 10]),
                    "start": st.sampled_from([None, *range(10)]),
                    "label": st.sampled_from(["", "a", "b"]),
                    "gpu": st.sampled_from(["", "", "1"]),
                }
            ),
            min_size=6,
            max_size=16,
        ),
        "incoming": st.lists(
            st.fixed_dictionaries(
                {
                    "cpu": st.sampled_from(["", "2", "3", "4"]),
                    "priority": st.sampled_from([2, 5, 10]),
                    "gpu": st.sampled_from(["", "", "1"]),
                }
            ),
            min_size=2,
            max_size=5,
        ),
        "promised": st.lists(promised, max_size=1),
        "budgets": st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 1)), max_size=2),
        "late": st.lists(st.tuples(st.integers(0, 15), st.integers(0, 9)), max_size=4),
    }
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crowds)
def test_nodes_that_are_looked_at_at_once_have_the_same_victims(drawn: Object) -> None:
    with patch.object(preemption, "ONE_BY_ONE_MAX", 0):
        play_cluster(drawn)


def play_cluster(drawn: Object) -> None:
    cluster, model = Cluster(), Model()
    for number, about in enumerate(drawn["nodes"]):
        extra = {"example.com/gpu": about["gpu"]} if about["gpu"] else {}
        taints = [("t", "v", "NoSchedule")] if about["taint"] else []
        made = node(f"n{number}", about["cpu"], pods=about["pods"], extra=extra, taints=taints)
        cluster.on_node(made)
        model.world.nodes[f"n{number}"] = made
    for number, about in enumerate(drawn["running"]):
        where = f"n{about['node'] % len(drawn['nodes'])}"
        made = described(f"r{number}", about, nodeName=where)
        cluster.on_pod(cluster.read_pod(made))
        model.world.pods[f"r{number}"] = made, where
    for number, (label, allowed) in enumerate(drawn["budgets"]):
        cluster.preemption.budgets.on_budget("d", f"b{number}", made_budget(label, allowed))
        model.budgets.append({"labels": {"app": label}, "allowed": allowed})
    for number, about in enumerate(drawn["promised"]):
        made = described(f"p{number}", about)
        where = made["status"]["nominatedNodeName"] = f"n{about['node'] % len(drawn['nodes'])}"
        cluster.preemption.nominations.on_pod(cluster.read_pod(made))
        model.nominated[f"p{number}"] = made, where
    starts = list(drawn["late"])  # one before each of those that come, of a pod that was there before
    for number, about in enumerate(drawn["incoming"]):
        if number and starts and drawn["running"]:
            which, second = starts.pop()
            began, _ = model.world.pods[f"r{which % len(drawn['running'])}"]
            began["status"]["startTime"] = f"2026-01-01T00:00:{second:02}Z"
            if not cluster.on_status(began):
                cluster.on_pod(cluster.read_pod(began))
        made = described(f"i{number}", about)
        found = cluster.schedule(cluster.read_pod(made))
        fitting = [name for name in model.world.nodes if not model.why(made, name)]
        if isinstance(found, Placement):
            assert found.node in fitting
            model.world.pods[f"i{number}"] = made, found.node
            continue
        assert not fitting
        check(model, made, found)


def test_the_youngest_leaves_also_when_it_starts_after_somebody_looked() -> None:
    cluster = Cluster()
    about: Object = {"cpu": "2", "priority": 0}
    for number in (0, 1):
        cluster.on_node(node(f"n{number}", "2", pods="110"))
    for number, start in enumerate((5, 3)):
        made = described(f"r{number}", {**about, "start": start}, nodeName=f"n{number}")
        cluster.on_pod(cluster.read_pod(made))

    def chosen(name: str) -> str:
        wants = cluster.read_pod(described(name, {**about, "priority": 10}))
        found = cluster.schedule(wants)
        assert isinstance(found, Diagnosis) and found.eviction is not None
        cluster.preemption.cancel(found.eviction)
        cluster.on_settled(wants.uid)
        return found.eviction.node

    assert chosen("i0") == "n0"
    cluster.on_pod(cluster.read_pod(described("r1", {**about, "start": 9}, nodeName="n1")))
    assert chosen("i1") == "n1"


def check(model: Model, made: Object, found: Diagnosis) -> None:
    expected = model.preempt(made)
    if isinstance(expected, str):
        assert found.eviction is None
        assert found.message.endswith(f". no new claims to deallocate, preemption: {expected}")
        return
    assert found.eviction is not None, (expected, found.message)
    where, victims, violations = expected
    eviction = found.eviction
    assert (eviction.node, eviction.violations) == (where, violations)
    assert [each.name for each in eviction.victims] == [name for name in victims if name not in model.leaving]
    model.leaving.update(victims)
    for name, (obj, promised_node) in list(model.nominated.items()):
        if promised_node == where and obj["spec"]["priority"] < made["spec"]["priority"]:
            del model.nominated[name]
    model.nominated[made["metadata"]["name"]] = made, where
