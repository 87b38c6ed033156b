"""What becomes of an object that came, changed or went: whom it wakes of the pods that fit nowhere."""

from typing import Any

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.intake import Intake
from raykube.scheduler.core.queue import PodQueue
from tests.scheduler.objects import Object, node, pod, spread


class Room:
    """A scheduler without its shell; time stands still."""

    def __init__(self, *nodes: Object) -> None:
        self.cluster, self.queue = Cluster(), PodQueue()
        self.intake = Intake(self.cluster, self.queue, {"default-scheduler"})
        for each in nodes:
            self.intake.on_node(each["metadata"], each)

    def put(self, name: str, cpu: str = "", **more: Any) -> Object:
        made = pod(name, cpu, **more)
        self.take(made)
        return made

    def take(self, obj: Object) -> None:
        """A pod as it is now."""
        self.queue.on_event(self.intake.on_pod(obj, 0.0, 0.0), 0.0)

    def waits(self, name: str) -> bool:
        """Whether the pod, which has its turn, fits nowhere."""
        (pending,) = self.queue.pop(9, 0.0)
        assert pending.pod.name == name
        found = self.cluster.schedule(pending.pod)
        if isinstance(found, Placement):
            return False
        self.queue.on_unschedulable(pending, found, 0.0)
        return self.queue.counts["unschedulable"] == 1

    @property
    def woken(self) -> int:
        return self.queue.counts["active"] + self.queue.counts["backoff"]


def test_a_node_that_goes_wakes_pods_that_spread_over_its_domain() -> None:
    zones = [node(name, cpu, labels={"zone": zone}) for name, cpu, zone in (("a", "8", "a"), ("b", "0", "b"))]
    room = Room(*zones)
    labels = {"app": "web"}
    room.put("first", "1", labels=labels, nodeName="a")
    room.put("second", "1", labels=labels, topologySpreadConstraints=[spread("zone", 1, labels)])
    assert room.waits("second"), "there is room in one zone only, which has one pod more than the other"
    room.queue.on_event(room.intake.on_node(zones[1]["metadata"], None), 0.0)
    assert room.woken == 1


def test_a_pod_made_smaller_wakes_those_that_lack_what_it_gave_back() -> None:
    room = Room(node("a", "4"))
    large = room.put("large", "4", nodeName="a")
    room.put("small", "1")
    assert room.waits("small")
    large["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2"
    large["metadata"] |= {"generation": 2, "resourceVersion": "9"}
    room.take(large)
    assert room.woken == 1


def test_a_promise_that_is_not_needed_wakes_those_that_it_kept_off() -> None:
    room = Room(node("a", "4"), node("b", "0"))
    promised = pod("promised", "4", priority=10)
    promised["status"]["nominatedNodeName"] = "a"
    room.take(promised)
    (pending,) = room.queue.pop(9, 0.0)
    room.put("small", "1")
    assert room.waits("small")
    promised["spec"]["nodeName"] = "b"  # somebody else bound it
    promised["metadata"]["resourceVersion"] = "9"
    room.take(promised)
    assert room.woken == 1 and room.queue.get(pending.pod.uid) is None


def resized(obj: Object, version: int, promised: str, **condition: str) -> Object:
    """The pod once its kubelet has said what it promises."""
    status = {"name": "c", "allocatedResources": {"cpu": promised}, "resources": {"requests": {"cpu": promised}}}
    found = obj | {"metadata": obj["metadata"] | {"generation": 2, "resourceVersion": str(version)}}
    found["status"] = {"phase": "Running", "containerStatuses": [status]}
    if condition:
        found["status"]["conditions"] = [{"status": "True", **condition}]
    return found


def test_what_a_running_pod_asks_for_in_vain_keeps_nobody_off() -> None:
    room = Room(node("a", "4"))
    greedy = room.put("greedy", "1", nodeName="a")
    greedy["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "90"
    room.take(resized(greedy, 2, "1"))
    room.put("small", "1")
    assert room.waits("small"), "until its kubelet has answered"
    room.take(resized(greedy, 3, "1", type="PodResizePending", reason="Infeasible"))
    assert room.woken == 1
    room.queue.remove("uid-small")
    room.put("other", "3")
    assert not room.waits("other")


def test_a_pod_counts_with_what_it_has_until_it_has_less() -> None:
    room = Room(node("a", "4"))
    large = room.put("large", "4", nodeName="a")
    large["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "1"
    room.take(resized(large, 2, "4"))
    room.put("small", "1")
    assert room.waits("small")
    room.take(resized(large, 3, "4", type="PodResizeInProgress"))
    assert room.woken == 0
    room.take(resized(large, 4, "1"))
    assert room.woken == 1
