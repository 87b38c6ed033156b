"""Gangs: all or none, planned as a whole."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.diagnosis import Diagnosis
from raykube.scheduler.core.gangs import BINDING, GROUP_LABEL, OLD_MINIMUM, OLD_NAME, TOO_FEW, Gang, group_of
from raykube.scheduler.core.pod import Pod
from tests.scheduler.objects import node, pod

Object = dict[str, Any]


def pod_group(name: str, minimum: int | None, namespace: str = "d") -> Object:
    policy: Object = {"basic": {}} if minimum is None else {"gang": {"minCount": minimum}}
    return {
        "kind": "PodGroup",
        "apiVersion": "scheduling.k8s.io/v1alpha2",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"schedulingPolicy": policy},
    }


def member(group: str, number: int, cpu: str = "1", **more: Any) -> Object:
    return pod(f"{group}-{number}", cpu, schedulingGroup={"podGroupName": group}, **more)


class Room:
    """A cluster, and gangs that wait."""

    def __init__(self, nodes: int, cpu: str = "1", patience_s: float = 30.0) -> None:
        self.cluster = Cluster(gang_patience_s=patience_s)
        for number in range(nodes):
            self.cluster.on_node(node(f"n{number}", cpu))

    def group(self, name: str, minimum: int | None) -> None:
        self.cluster.gangs.on_group(("d", name), group_of(pod_group(name, minimum)))

    def wait(self, *objects: Object) -> list[Pod]:
        pods = [self.cluster.read_pod(obj) for obj in objects]
        for one in pods:
            self.cluster.on_waiting(one)
        return pods

    def place(self, pods: list[Pod], now: float = 0.0, since: float = 0.0) -> list[Placement | Diagnosis]:
        assert pods[0].gang is not None
        gang = self.cluster.gangs.gang(pods[0].gang)
        assert isinstance(gang, Gang), gang
        found = self.cluster.gang_placing.place(gang, pods, now, since)
        for one, verdict in zip(pods, found, strict=True):
            if isinstance(verdict, Placement):
                self.cluster.on_settled(one.uid)
        return found

    def used(self) -> int:
        return int(self.cluster.nodes.pod_count.sum())


def confirm(cluster: Cluster, obj: Object) -> None:
    """The API says that a pod which is assumed somewhere is bound there."""
    obj["spec"]["nodeName"] = cluster.assumed(obj["metadata"]["uid"])
    one = cluster.read_pod(obj)
    cluster.on_settled(one.uid)
    cluster.on_pod(one)


def placed(found: list[Placement | Diagnosis]) -> int:
    return sum(isinstance(one, Placement) for one in found)


def message(found: list[Placement | Diagnosis]) -> str:
    (text,) = {one.message for one in found if isinstance(one, Diagnosis)}
    return text


def test_of_two_gangs_of_six_on_ten_slots_one_runs_and_the_other_holds_nothing() -> None:
    room = Room(10)
    for name in "ab":
        room.group(name, 6)
    first = room.wait(*(member("a", number) for number in range(6)))
    second = room.wait(*(member("b", number) for number in range(6)))
    assert placed(room.place(first)) == 6
    found = room.place(second)
    assert placed(found) == 0
    assert room.used() == 6
    assert message(found).startswith('pod group "b" needs 6 pods at once, 4 fit: 0/10 nodes are available: ')
    for one in first:
        room.cluster.on_pod_gone(one.uid)
    assert placed(room.place(second)) == 6


def test_a_gang_waits_for_its_group_and_for_enough_pods() -> None:
    room = Room(3)
    pods = room.wait(member("a", 0))
    assert pods[0].gang is not None
    assert room.cluster.gangs.gang(pods[0].gang) == 'waiting for pod group "a" to appear in scheduling queue'
    room.group("a", 2)
    assert room.cluster.gangs.gang(pods[0].gang) == TOO_FEW
    (late,) = [room.cluster.read_pod(member("a", 1))]
    assert room.cluster.on_waiting(late)
    assert placed(room.place([*pods, late])) == 2
    # What comes later, or again, is placed alone; but not before the API has said that the others are bound.
    (more,) = room.wait(member("a", 2))
    assert more.gang is not None
    for number in range(2):
        assert room.cluster.gangs.gang(more.gang) == BINDING
        assert not room.cluster.decided()
        confirm(room.cluster, member("a", number))
    assert room.cluster.decided() == {("d", "a")}
    assert room.cluster.gangs.gang(more.gang) is None


def test_the_basic_policy_is_no_gang() -> None:
    room = Room(1)
    room.group("a", None)
    (one,) = room.wait(member("a", 0))
    assert one.gang is not None
    assert room.cluster.gangs.gang(one.gang) is None


def test_more_pods_than_needed_run_as_far_as_they_fit() -> None:
    room = Room(4)
    room.group("a", 3)
    found = room.place(room.wait(*(member("a", number) for number in range(6))))
    assert placed(found) == 4
    assert "Insufficient cpu" in message(found)


def test_a_gang_larger_than_the_cluster_says_so() -> None:
    room = Room(4)
    room.cluster.on_pod(room.cluster.read_pod(pod("other", "1", nodeName="n0")))
    room.group("a", 6)
    found = room.place(room.wait(*(member("a", number) for number in range(6))))
    text = 'pod group "a" is larger than the cluster: it needs 6 pods at once, 4 fit when nothing else runs'
    assert message(found) == text
    assert isinstance(room.cluster.schedule(room.cluster.read_pod(pod("alone", "1"))), Placement)


@pytest.mark.parametrize(
    ("labels", "minimum"),
    [
        ({OLD_NAME: "a", OLD_MINIMUM: "3"}, 3),
        ({GROUP_LABEL: "a", OLD_MINIMUM: "3"}, 3),
        ({GROUP_LABEL: "a"}, 2),
    ],
)
def test_labels_of_older_clients(labels: dict[str, str], minimum: int) -> None:
    room = Room(3)
    room.group("a", 2)
    pods = room.wait(*(pod(f"p{number}", "1", labels=labels) for number in range(3)))
    assert pods[0].gang is not None
    gang = room.cluster.gangs.gang(pods[0].gang)
    assert isinstance(gang, Gang)
    assert gang.minimum == minimum


def test_a_number_that_is_none_is_said() -> None:
    room = Room(1)
    (one,) = room.wait(pod("p", labels={OLD_NAME: "a", OLD_MINIMUM: "many"}))
    assert one.gang is not None
    assert room.cluster.gangs.gang(one.gang) == f'{OLD_MINIMUM} must be a positive integer, not "many"'


@pytest.mark.parametrize("text", ["9" * 5000, "2147483648", "0", "-1", "", "\u0663", "1.0", " 1"])
def test_a_number_can_be_any_text(text: str) -> None:
    room = Room(1)
    obj = pod("p", labels={OLD_NAME: "a"})
    obj["metadata"]["annotations"] = {OLD_MINIMUM: text}
    (one,) = room.wait(obj)
    assert one.gang is not None
    problem = room.cluster.gangs.gang(one.gang)
    assert isinstance(problem, str)
    assert problem.startswith(f"{OLD_MINIMUM} must be a positive integer")
    assert len(problem) < 200


def test_the_largest_number_is_one() -> None:
    (one,) = Room(1).wait(pod("p", labels={OLD_NAME: "a", OLD_MINIMUM: "2147483647"}))
    assert one.gang is not None
    assert one.gang.minimum == 2147483647


def test_a_gang_preempts_as_a_whole_or_not_at_all() -> None:
    room = Room(4)
    for number in range(4):
        weak = pod(f"weak-{number}", "1", nodeName=f"n{number}", priority=50 if number == 3 else 0)
        room.cluster.on_pod(room.cluster.read_pod(weak))
    for name, priority, minimum in (("a", 10, 4), ("b", 10, 3)):
        room.group(name, minimum)
        pods = room.wait(*(member(name, number, priority=priority) for number in range(minimum)))
        found = room.place(pods)
        assert placed(found) == 0
        evictions = [one.eviction for one in found if isinstance(one, Diagnosis) and one.eviction]
        if name == "a":  # a fourth one has nowhere to go: nobody is sent away, nothing is promised
            assert not evictions
            assert not len(room.cluster.preemption.nominations)
            for one in pods:
                room.cluster.on_settled(one.uid)
            continue
        assert sorted(victim.name for each in evictions for victim in each.victims) == ["weak-0", "weak-1", "weak-2"]
        # Until the last victim is gone nobody else gets the room, and nobody of the gang starts.
        for number in range(3):
            assert isinstance(room.cluster.schedule(room.cluster.read_pod(pod("thief", "1"))), Diagnosis)
            assert placed(room.place(pods)) == 0
            room.cluster.on_pod_gone(f"uid-weak-{number}")
        assert placed(room.place(pods)) == 3


def test_a_large_gang_is_not_starved_by_small_pods() -> None:
    """Small pods come without end, each for three ticks, and every free slot is taken at once."""

    def waited(patience_s: float) -> int | None:
        room = Room(10, patience_s=patience_s)
        room.group("large", 6)
        gang = room.wait(*(member("large", number) for number in range(6)))
        running: list[tuple[int, str]] = []
        for tick in range(200):
            for ends, uid in list(running):
                if ends <= tick:
                    running.remove((ends, uid))
                    room.cluster.on_pod_gone(uid)
            for number in range(12):
                small = room.cluster.read_pod(pod(f"small-{tick}-{number}", "1"))
                if isinstance(room.cluster.schedule(small), Placement):
                    running.append((tick + 1 + (tick + number) % 3, small.uid))
            found = room.place(gang, now=float(tick), since=0.0)
            assert placed(found) in (0, 6)
            if placed(found):
                return tick
        return None

    without, aged = waited(1000.0), waited(10.0)
    figures = f"{without} ticks without ageing, {aged} with 10 ticks of it"
    print(f"\na gang of 6 on 10 slots among small pods waits {figures}")  # noqa: T201
    assert without is None
    assert aged is not None
    assert aged <= 10 + 4


def test_of_two_gangs_that_waited_for_long_only_one_is_kept_room_for() -> None:
    room = Room(10, patience_s=0.0)
    for number in range(10):
        room.cluster.on_pod(room.cluster.read_pod(pod(f"r{number}", "1", nodeName=f"n{number}")))
    gangs = {}
    for name in "ab":
        room.group(name, 6)
        gangs[name] = room.wait(*(member(name, number) for number in range(6)))
    for name in "ab":
        assert placed(room.place(gangs[name], now=1.0, since=0.0 if name == "a" else 0.5)) == 0
    nominations = room.cluster.preemption.nominations
    assert len(nominations) == 6
    assert all(nominations.node_of(one.uid) for one in gangs["a"])
    for number in range(10):
        room.cluster.on_pod_gone(f"uid-r{number}")
    assert placed(room.place(gangs["b"], now=2.0, since=0.5)) == 0  # four slots are left beside the first one's
    assert placed(room.place(gangs["a"], now=2.0, since=0.0)) == 6
    assert not len(nominations)


def test_room_is_kept_for_so_long_and_then_others_have_their_turn() -> None:
    room = Room(4, cpu="4")
    for number in range(4):
        room.cluster.on_pod(room.cluster.read_pod(pod(f"service-{number}", "1", nodeName=f"n{number}")))
    room.group("a", 4)
    gang = room.wait(*(member("a", number, cpu="4") for number in range(4)))
    small = room.cluster.read_pod(pod("small", "1"))

    def fits(now: float) -> bool:
        """Whether a small pod finds room after the gang's turn; and that it is said when room is free again."""
        before = len(room.cluster.preemption.nominations)
        assert placed(room.place(gang, now, 0.0)) == 0
        assert room.cluster.gang_placing.freed() == (before > len(room.cluster.preemption.nominations))
        found = isinstance(room.cluster.schedule(small), Placement)
        room.cluster.forget(small.uid)
        return found

    turns = [at for at in range(0, 2000, 10) if not fits(at)]
    assert turns == [*range(30, 30 + 600, 10), *range(30 + 1200, 30 + 1800, 10)]
    # Nobody needs to come for it to end.
    assert fits(1990.0)
    room = Room(4, cpu="4")
    room.group("a", 4)
    room.cluster.on_pod(room.cluster.read_pod(pod("service", "1", nodeName="n0")))
    room.place(room.wait(*(member("a", number, cpu="4") for number in range(4))), 30.0, 0.0)
    assert len(room.cluster.preemption.nominations) == 4
    room.cluster.gang_placing.expire(629.0)
    assert len(room.cluster.preemption.nominations) == 4
    room.cluster.gang_placing.expire(630.0)
    assert not len(room.cluster.preemption.nominations)
    assert room.cluster.gang_placing.freed()


def test_pods_of_several_sizes_are_larger_than_the_cluster_together() -> None:
    room = Room(2, cpu="4")
    room.group("a", 4)
    sizes = ("3", "3", "2", "2")
    found = room.place(room.wait(*(member("a", number, cpu=cpu) for number, cpu in enumerate(sizes))), 100.0, 0.0)
    assert "larger than the cluster: it needs 4 pods at once, 3 fit when nothing else runs" in message(found)
    assert not len(room.cluster.preemption.nominations)


@pytest.mark.parametrize(("sizes", "kept"), [(("3", "3", "2"), 0), (("2", "2", "4"), 3)])
def test_room_is_kept_for_enough_pods_or_for_none(sizes: tuple[str, ...], kept: int) -> None:
    room = Room(2, cpu="4")
    room.group("a", 3)
    room.cluster.on_pod(room.cluster.read_pod(pod("service", "1", nodeName="n0")))
    gang = room.wait(*(member("a", number, cpu=cpu) for number, cpu in enumerate(sizes)))
    assert placed(room.place(gang, 100.0, 0.0)) == 0
    assert len(room.cluster.preemption.nominations) == kept


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3), st.sampled_from([0, 10])), min_size=1, max_size=6),
    st.integers(1, 8),
    st.lists(st.integers(0, 100), max_size=40),
)
def test_no_gang_is_ever_half_placed(gangs: list[tuple[int, int, int]], nodes: int, departures: list[int]) -> None:
    """Gangs of (needed, extra, priority), tried in turns while placed ones end."""
    room = Room(nodes, patience_s=3.0)
    waiting: dict[str, list[Pod]] = {}
    for number, (minimum, extra, priority) in enumerate(gangs):
        name = f"g{number}"
        room.group(name, minimum)
        waiting[name] = room.wait(*(member(name, index, priority=priority) for index in range(minimum + extra)))
    needs = {f"g{number}": minimum for number, (minimum, _, _) in enumerate(gangs)}
    running: dict[str, list[str]] = {}
    for tick, departure in enumerate([*departures, *([0] * 30)]):
        for name, pods in list(waiting.items()):
            found = room.place(pods, float(tick), 0.0)
            count = placed(found)
            assert count == 0 or count >= needs[name]
            if count:
                running[name] = [o.uid for o, v in zip(pods, found, strict=True) if isinstance(v, Placement)]
                del waiting[name]
                for one in pods:
                    room.cluster.on_settled(one.uid)
            for verdict in found:
                if isinstance(verdict, Diagnosis) and verdict.eviction is not None:
                    gone = {victim.uid for victim in verdict.eviction.victims}
                    for uid in gone:
                        room.cluster.on_pod_gone(uid)
                    running = {key: [uid for uid in uids if uid not in gone] for key, uids in running.items()}
        if running and departure % 2 == 0:
            ended = sorted(running)[departure % len(running)]
            for uid in running.pop(ended):
                room.cluster.on_pod_gone(uid)
    assert room.used() <= nodes
    # None of those that can run is left out.
    assert all(needs[name] > nodes for name in waiting)


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 4), st.integers(0, 3), st.integers(2, 6), st.lists(st.integers(0, 5), max_size=60))
def test_no_gang_is_half_placed_though_bindings_fail(minimum: int, extra: int, nodes: int, steps: list[int]) -> None:
    """Pods of one gang come one by one; what was decided on together is bound as a whole or not at all, but slowly."""
    room = Room(nodes)
    cluster = room.cluster
    room.group("a", minimum)
    waiting: list[Pod] = []
    under_way: list[list[Pod]] = []
    bound = 0
    for step in [*range(6), *steps]:
        if step <= 1 and len(waiting) + bound + sum(map(len, under_way)) < minimum + extra:
            waiting += room.wait(member("a", len(waiting) + bound + sum(map(len, under_way))))
        elif step == 2 and under_way:  # bound, and the API says so pod by pod
            for one in under_way.pop(0):
                confirm(cluster, member("a", int(one.name.removeprefix("a-"))))
                bound += 1
            assert bound >= minimum
        elif step == 3 and under_way:
            refused = under_way.pop(0)
            assert all(cluster.refused(one.uid) for one in refused)
            waiting += refused
        elif waiting:
            assert waiting[0].gang is not None
            gang = cluster.gangs.gang(waiting[0].gang)
            if isinstance(gang, str):
                continue
            chosen = waiting if gang is not None else waiting[:1]
            if gang is None:
                found = [cluster.schedule(chosen[0])]
            else:
                found = cluster.gang_placing.place(gang, chosen, 0.0, 0.0)
            together = [one for one, verdict in zip(chosen, found, strict=True) if isinstance(verdict, Placement)]
            waiting = [one for one in waiting if one not in together]
            under_way += [together] if together else []
