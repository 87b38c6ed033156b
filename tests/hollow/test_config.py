"""What `raykube hollow` takes, and what it says of what it does not."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raykube.hollow.config import Config
from raykube.hollow.core import lifecycle
from raykube.hollow.core.chance import Delay, fraction
from raykube.hollow.core.machine import slim
from raykube.kubelet.core import nodestatus
from tests.hollow.world import builtin_lifecycles


def config(**flags: Any) -> Config:
    return Config(api_servers=["127.0.0.1:1"], **flags)


def test_a_node_says_what_a_kubelet_would() -> None:
    node = config(nodes=2, register_with_taints=["a=b:NoSchedule"]).fleet.node(1, 0.0)
    machine = nodestatus.MachineFacts(4, 1 << 30, 1 << 40, "m", "s", "b", "6.1.0-hollow", "Debian", "amd64")
    real = nodestatus.new_node(
        nodestatus.NodeConfig("hollow-00001", ("127.64.0.2",), "v1", 10247, taints=({"key": "a"},)),
        machine,
        nodestatus.Health("containerd://2"),
        0.0,
    )
    status = node["status"]
    assert status.keys() == real["status"].keys() - {"images"}
    assert status["nodeInfo"].keys() == real["status"]["nodeInfo"].keys()
    assert status["addresses"] == real["status"]["addresses"]
    assert status["conditions"] == real["status"]["conditions"]
    assert real["metadata"]["labels"].items() <= node["metadata"]["labels"].items()
    assert node["spec"]["taints"] == [{"key": "a", "value": "b", "effect": "NoSchedule"}]


def test_nodes_differ_in_what_is_their_own() -> None:
    fleet = config(nodes=300, first_node=200, zones=3).fleet
    nodes = [fleet.node(number, 0.0) for number in range(200, 500)]
    assert [node["metadata"]["name"] for node in nodes] == fleet.names
    for name in ("machineID", "systemUUID", "bootID"):
        assert len({node["status"]["nodeInfo"][name] for node in nodes}) == 300
    assert len({node["status"]["addresses"][0]["address"] for node in nodes}) == 300
    zones = [node["metadata"]["labels"]["topology.kubernetes.io/zone"] for node in nodes]
    assert [zones.count(f"zone-{number}") for number in (1, 2, 3)] == [100, 100, 100]


def test_a_node_that_is_kept_is_small_and_says_whether_all_is_well() -> None:
    import orjson

    node = config(nodes=1).fleet.node(0, 0.0)
    node["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    assert slim(orjson.dumps(node)) == {
        "metadata": {"name": "hollow-00000", "uid": "u", "resourceVersion": "7"},
        "well": True,
    }
    node["status"]["conditions"][3]["status"] = "Unknown"
    assert not slim(orjson.dumps(node))["well"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"nodes": 0}, "greater than or equal to 1"),
        ({"name": "No"}, "lower-case"),
        ({"register_with_taints": ["x"]}, "invalid taint 'x'"),
        ({"capacity": {"cpu": "many"}}, "cpu"),
        ({"capacity": {"cpu": "-1"}}, "must not be negative"),
        ({"node_cidr": "10.0.0.0/24", "nodes": 500}, "--node-cidr: 10.0.0.0/24 has not enough addresses for 500"),
        ({"pod_cidr": "x"}, "x"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(**flags)


def test_flags_come_as_texts_too() -> None:
    fleet = config(capacity="cpu=64,nvidia.com/gpu=8", node_labels="a=b", register_with_taints="x:NoExecute").fleet
    assert (fleet.capacity["nvidia.com/gpu"], fleet.capacity["memory"]) == ("8", "256Gi")
    assert (fleet.labels, fleet.taints) == ({"a": "b"}, ({"key": "x", "effect": "NoExecute"},))


def one(**stage: Any) -> dict[str, Any]:
    return {"lifecycles": [{"name": "x", "stages": [{"name": "s"} | stage]}]}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the file: must have fields"),
        ({"lifecycles": []}, "there must be one at least"),
        ({"lifecycles": [{"name": "x", "stages": []}]}, r"lifecycles\[0\].stages: there must be one"),
        ({"lifecycles": [{"stages": [{"name": "s"}]}]}, r"lifecycles\[0\].name: is required"),
        (one(state="dead"), r"stages\[0\].state: must be waiting, running, terminated"),
        (one(delay="1s"), "delay and then go together"),
        (one(then="s"), "delay and then go together"),
        (one(delay="1 s", then="s"), "unknown unit"),
        (one(delay="-1s", then="s"), "0 or more"),
        (one(delay={"uniform": ["2s", "1s"]}, then="s"), "first must not be longer"),
        (one(delay={"gamma": 1}, then="s"), "there is no field 'gamma'"),
        (one(delay=1, then="t"), "there is no stage 't'"),
        (one(delay=1, then=[{"stage": "s", "weight": 0}]), "one weight at least"),
        (one(exitCode=256), "exitCode: must be 0 to 255"),
        (one(colour=1), "there is no field 'colour'"),
        ({"lifecycles": one()["lifecycles"] * 2}, "there are several 'x'"),
    ],
)
def test_a_lifecycle_file_that_makes_no_sense_is_refused_with_the_place(document: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        lifecycle.parse(document)


def test_a_lifecycle_file_that_is_not_there_or_no_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot read"):
        config(lifecycle_file=tmp_path / "none").lifecycles()
    (tmp_path / "bad").write_text("{")
    with pytest.raises(ValueError, match="is no YAML"):
        config(lifecycle_file=tmp_path / "bad").lifecycles()


def test_the_first_lifecycle_that_matches_is_the_pods() -> None:
    known = builtin_lifecycles()

    def chosen(asked: str = "", owner: str = "") -> str:
        return lifecycle.choose(known, asked, owner, "d", "Always", {}).name

    assert chosen() == chosen(asked="unknown") == chosen(owner="ReplicaSet") == "server"
    assert chosen(owner="Job") == "task"
    assert chosen(asked="crashing", owner="Job") == "crashing"


def test_weights_and_delays_fall_as_they_are_given() -> None:
    choices = [{"stage": "s", "weight": 3}, {"stage": "t", "weight": 1}]
    stages = [{"name": "s", "delay": 1, "then": choices}, {"name": "t"}]
    (life,) = lifecycle.parse({"lifecycles": [{"name": "x", "stages": stages}]})
    shares = [fraction(7, "then", f"pod-{number}") for number in range(4000)]
    assert 0.72 < sum(life.stages[0].following(share) == 0 for share in shares) / 4000 < 0.78
    means = {
        Delay("uniform", 1, 3): 2.0,
        Delay("exponential", 2, float("inf")): 2.0,
        Delay("normal", 5, 1): 5.0,
        Delay("constant", 4): 4.0,
    }
    for delay, mean in means.items():
        drawn = [delay.seconds(share) for share in shares]
        assert abs(sum(drawn) / len(drawn) - mean) < 0.1
    assert max(Delay("exponential", 2, 3).seconds(share) for share in shares) == 3
