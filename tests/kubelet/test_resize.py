"""Resizing in place: what is decided, and what is left to do."""

from typing import Any

import pytest

from raykube.kubelet.core import resize
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, State
from raykube.kubelet.core.probes import ProbeResults
from raykube.kubelet.core.resize import Refusal, Step
from raykube.kubelet.core.status import Inputs, NodeFacts, pod_status
from tests.kubelet.conftest import Object

RESOURCE = "Node didn't have enough resource: "
CAPACITY = "Node didn't have enough capacity: "
NODE = {"metadata": {"name": "n"}, "status": {"allocatable": {"cpu": "4", "memory": "4Gi", "pods": "10"}}}


def amounts(cpu: str, memory: str = "1Gi") -> Object:
    return {"requests": {"cpu": cpu, "memory": memory}}


def pod(name: str = "p", resources: Object | None = None, **spec: Any) -> Object:
    container = {"name": "c", "resources": resources or {}}
    metadata = {"name": name, "namespace": "ns", "uid": name}
    return {"metadata": metadata, "spec": {"containers": [container], "nodeName": "n"} | spec}


def running(name: str = "c", number: int = 0) -> ObservedPod:
    return ObservedPod((), (ObservedContainer(f"{name}{number}", name, "s", number, State.RUNNING, 1.0, 1.0),))


@pytest.mark.parametrize(
    ("wanted", "refusal"),
    [
        (amounts("2"), None),
        (
            amounts("3"),
            Refusal("Deferred", "Node didn't have enough resource: cpu, requested: 3000, used: 2000, capacity: 4000"),
        ),
        (amounts("5"), Refusal("Infeasible", f"{CAPACITY}cpu, requested: 5000, capacity: 4000")),
        (
            amounts("5", "5Gi"),
            Refusal(
                "Infeasible", "Node didn't have enough capacity: memory, requested: 5368709120, capacity: 4294967296"
            ),
        ),
    ],
)
def test_decisions(wanted: Object, refusal: Refusal | None) -> None:
    assert resize.decide(pod(resources=wanted), [pod("other", amounts("2"))], NODE) == refusal


def test_pods_from_files_are_not_resized() -> None:
    static = pod(resources=amounts("1"))
    static["metadata"]["annotations"] = {"kubernetes.io/config.source": "file"}
    assert resize.decide(static, [], NODE) == Refusal("Infeasible", "In-place resize of static-pods is not supported")


def test_equal_amounts_are_no_change() -> None:
    assert resize.same({"limits": {"cpu": "500m"}, "requests": {}}, {"limits": {"cpu": "0.5"}})
    assert not resize.same({"limits": {"cpu": "0"}}, {})
    assert not resize.wants_resize(pod(resources=amounts("1000m")), {"c": amounts("1")})
    assert resize.wants_resize(pod(resources=amounts("2")), {"c": amounts("1")})


def test_steps_follow_the_policy() -> None:
    one = pod(resources=amounts("2"))
    one["spec"]["containers"][0]["resizePolicy"] = [
        {"resourceName": "cpu", "restartPolicy": "NotRequired"},
        {"resourceName": "memory", "restartPolicy": "RestartContainer"},
    ]
    allocated = {"c": amounts("2")}
    assert resize.steps(one, allocated, {"c0": amounts("2")}, running()) == []
    assert resize.steps(one, allocated, {"c0": amounts("1")}, running()) == [Step("c", "c0", False)]
    assert resize.steps(one, allocated, {"c0": amounts("2", "2Gi")}, running()) == [Step("c", "c0", True)]
    assert resize.steps(one, allocated, {}, running()) == []  # not known: nothing to compare with
    ended = ObservedPod((), (ObservedContainer("c0", "c", "s", 0, State.EXITED, 1.0),))
    assert resize.steps(one, allocated, {"c0": amounts("1")}, ended) == []


def test_only_what_runs_side_by_side_is_resized() -> None:
    inits = [{"name": "once", "resources": amounts("1")}, {"name": "side", "restartPolicy": "Always"}]
    one = pod(initContainers=inits)
    assert set(resize.sizes(one)) == {"side", "c"}
    sized = resize.sized(one, {"side": amounts("3"), "once": amounts("9"), "c": amounts("2")})
    assert sized["spec"]["initContainers"][1]["resources"] == amounts("3")
    assert sized["spec"]["containers"][0]["resources"] == amounts("2")
    assert one["spec"]["containers"][0]["resources"] == {}


def test_the_status_tells_of_it() -> None:
    facts = NodeFacts(("10.0.0.1",), "containerd")
    pending = {"type": "PodResizePending", "status": "True", "reason": "Deferred", "message": "m"}
    inputs = Inputs(pod(resources=amounts("2")), running(), ProbeResults())
    inputs.allocated, inputs.applied, inputs.resize = {"c": amounts("1")}, {"c0": amounts("1")}, [pending]
    status = pod_status(inputs, facts, 5.0)
    (one,) = status["containerStatuses"]
    assert (one["resources"], one["allocatedResources"]) == (amounts("1"), amounts("1")["requests"])
    found = next(each for each in status["conditions"] if each["type"] == "PodResizePending")
    assert found["lastTransitionTime"] == "1970-01-01T00:00:05Z"
    inputs.pod, inputs.resize = inputs.pod | {"status": status}, []
    assert "PodResizePending" not in {each["type"] for each in pod_status(inputs, facts, 6.0)["conditions"]}
    assert resize.reported(inputs.pod) == {"c": amounts("1")}
