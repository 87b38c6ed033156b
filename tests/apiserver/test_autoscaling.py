"""autoscaling/v1 and v2 are one object: there and back nothing is lost, and annotations carry nothing unfit."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.apiserver.core import autoscaling

TARGET = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
METRICS = "autoscaling.alpha.kubernetes.io/metrics"


def resource(name, value, **amount):
    return {"type": "Resource", "resource": {"name": name, value: amount}}


CPU = resource("cpu", "target", type="Utilization", averageUtilization=70)
OTHERS = (
    resource("memory", "target", type="Utilization", averageUtilization=60),
    resource("cpu", "target", type="AverageValue", averageValue="500m"),
    {"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "1k"}}},
)
SEEN = resource("cpu", "current", averageUtilization=30, averageValue="300m")
CONDITION = {"type": "AbleToScale", "status": "True"}


def v2(metrics=(CPU,), status=None, **spec):
    spec = {"maxReplicas": 5, "minReplicas": 1, "scaleTargetRef": TARGET, "metrics": list(metrics)} | spec
    return {"metadata": {"name": "web"}, "spec": spec, "status": status or {}}


@given(
    st.lists(st.sampled_from(OTHERS), max_size=3),
    st.booleans(),
    st.sampled_from([{}, {"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3}}}]),
    st.sampled_from([{}, {"conditions": [CONDITION]}, {"currentReplicas": 2}]),
    st.sampled_from([{}, {"annotations": {"mine": "1"}}]),
)
def test_there_and_back(others, cpu, behavior, status, metadata) -> None:
    wanted = v2([CPU, *others] if cpu else others or [OTHERS[0]], status, **behavior)
    wanted["metadata"] |= metadata
    before = orjson.dumps(wanted)
    assert autoscaling.to_v2(autoscaling.to_v1(wanted)) == wanted
    assert orjson.dumps(wanted) == before


def test_the_percentages_of_v1() -> None:
    seen = autoscaling.to_v1(v2(status={"currentMetrics": [resource("cpu", "current", averageUtilization=30)]}))
    assert seen["spec"]["targetCPUUtilizationPercentage"] == 70
    assert seen["status"]["currentCPUUtilizationPercentage"] == 30
    assert "metrics" not in seen["spec"]
    assert "annotations" not in seen["metadata"]


def test_a_target_is_set_where_nothing_says_one() -> None:
    bare = {"metadata": {}, "spec": {"maxReplicas": 2, "scaleTargetRef": TARGET}}
    assert autoscaling.to_v2(bare)["spec"]["metrics"] == [
        resource("cpu", "target", type="Utilization", averageUtilization=80)
    ]


@pytest.mark.parametrize("text", ["", "no json", "7", '{"a":1}', '[{"type":7}]', "[{}]", '[{"type":"Pods","x":1}]'])
def test_annotations_that_are_no_metrics_are_dropped(text) -> None:
    odd = {"metadata": {"annotations": {METRICS: text}}, "spec": {"maxReplicas": 2, "scaleTargetRef": TARGET}}
    made = autoscaling.to_v2(odd)
    assert "annotations" not in made["metadata"]
    assert len(made["spec"]["metrics"]) == 1
