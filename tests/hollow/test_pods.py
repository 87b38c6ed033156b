"""Lives of hollow pods: transcripts, what a kubelet would have said, and properties over random lives."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.strategic import strategic_merge
from raykube.hollow.core import lifecycle
from raykube.hollow.core.pods import Pods
from raykube.kubelet.core.observed import ObservedContainer, ObservedPod, ObservedSandbox, State
from raykube.kubelet.core.probes import ProbeResults
from raykube.kubelet.core.status import Inputs, NodeFacts, pod_status
from tests.hollow.world import NAMESPACE, PODS, World
from tests.kit.transcript import Step, play

DATA = Path(__file__).parent / "testdata"


@pytest.mark.parametrize("path", sorted(DATA.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path, rewrite: bool) -> None:
    world = World()

    def handle(step: Step) -> str:
        words = [word for word in step.arguments if "=" not in word]
        options: dict[str, Any] = dict(word.split("=") for word in step.arguments if "=" in word)
        for name in ("containers", "init"):
            if name in options:
                options[name] = tuple(options[name].split(","))
        match step.command:
            case "pod":
                world.create(words[0], **options)
            case "delete":
                world.delete(words[0], int(options.get("grace", 30)))
            case "unready":
                world.unready(words[0])
            case "fail":
                world.failing = int(words[0])
            case "restart":
                world.start()
            case "events":
                told = [f"{each.kind} {each.reason}: {each.message}" for each in world.told]
                world.told.clear()
                return "\n".join(told)
            case "run":
                world.run(float(words[0]))
        lines, world.log = world.log, []
        return "\n".join(lines)

    play(path, handle, rewrite)


@pytest.mark.parametrize("init", [(), ("first",), ("side", "first")])
@pytest.mark.parametrize("containers", [("c",), ("a", "b")])
def test_a_running_pod_looks_as_a_kubelet_would_show_it(containers: tuple[str, ...], init: tuple[str, ...]) -> None:
    world = World()
    world.create("p", containers=containers, init=init)
    bound = world.objects["p"]
    world.run(1)
    hollow = world.objects["p"]["status"]
    started = world.now - 1
    runs = []
    for name in (*init, *containers):
        ended = name == "first"
        state = State.EXITED if ended else State.RUNNING
        runs.append(ObservedContainer(f"id-{name}", name, "s", 0, state, started, started, started))
    observed = ObservedPod((ObservedSandbox("s", 0, True, "100.64.0.1", started),), tuple(runs))
    real = pod_status(
        Inputs(bound, observed, ProbeResults(), started_at=started), NodeFacts(("127.64.0.1",), "containerd"), started
    )
    assert _form(hollow) == _form(real)


def _form(status: Any) -> Any:
    """A status without what is by chance: times, ids, images; empty texts count as absent, conditions in order."""
    if isinstance(status, list):
        items = [_form(each) for each in status]
        return sorted(items, key=lambda each: each.get("type", "")) if items and "type" in items[0] else items
    if not isinstance(status, dict):
        return status
    chance = {"containerID", "imageID", "image"}
    return {
        key: "TIME" if key.endswith(("Time", "At")) else _form(value)
        for key, value in status.items()
        if key not in chance and value is not None
    }


def test_equal_seeds_live_equal_lives_in_any_order() -> None:
    def lives(names: list[str], seed: int) -> dict[str, list[str]]:
        world = World(seed=seed)
        for name in names:
            world.create(name, owner="Job", policy="OnFailure")
        world.run(10)
        found: dict[str, list[str]] = {}
        for line in world.log:
            found.setdefault(line.split()[1], []).append(line.split("100.64")[0])
        return found

    names = [f"p{number}" for number in range(20)]
    assert lives(names, 1) == lives(names[::-1], 1)
    assert lives(names, 1) != lives(names, 2)


def test_no_two_pods_have_an_address_at_a_time_and_all_come_back() -> None:
    world = World(cidr="100.64.0.0/29")  # six addresses
    for number in range(8):
        world.create(f"p{number}")
    world.run(2)
    taken = [status["podIP"] for each in world.objects.values() if "podIP" in (status := each["status"])]
    assert len(taken) == len(set(taken)) == 6
    waiting = [name for name, each in world.objects.items() if "podIP" not in each["status"]]
    for name in list(world.objects):
        if name not in waiting:
            world.delete(name)
    world.run(20)
    assert sorted(world.objects) == sorted(waiting)
    assert all("podIP" in each["status"] for each in world.objects.values())


STEPS = st.lists(
    st.sampled_from(["create", "run", "delete", "restart", "fail", "heal", "unready", "stale", "late", "early"]),
    max_size=40,
)


@given(STEPS, st.integers(0, 5))
def test_whatever_happens_pods_end_where_they_belong(steps: list[str], seed: int) -> None:
    """After faults end: running pods run and are ready, those that were deleted are gone, one address each."""
    world = World(seed=seed)
    deleted = set()
    names = iter(f"p{'x' * number}" for number in range(50))
    for step in steps:
        living = [name for name in world.objects if name not in deleted]
        match step:
            case "create":
                world.create(next(names))
            case "run":
                world.run(0.05)
            case "delete" if living:
                world.delete(living[0])
                deleted.add(living[0])
            case "restart":
                world.start()
            case "fail":
                world.failing = 503
            case "heal":
                world.failing = 0
            case "unready" if living and any(
                each["type"] == "Ready" for each in world.objects[living[-1]]["status"]["conditions"]
            ):
                world.unready(living[-1])
            case "stale" if living:
                world.pods.on_pod(copy_of(world.objects[living[0]]), world.now)  # what was seen before
            case "late" if living:
                # What was so before our last write comes late.
                late = {**world.objects[living[0]], "status": {"phase": "Pending"}}
                metadata = {**late["metadata"], "resourceVersion": str(int(late["metadata"]["resourceVersion"]) - 1)}
                world.pods.on_pod(copy_of({**late, "metadata": metadata}), world.now)
            case "early":
                world.early = not world.early
    world.failing = 0
    world.run(60)
    assert not deleted & set(world.objects)
    assert set(world.pods.keys) == {(NAMESPACE, name) for name in world.objects}
    addresses = []
    for obj in world.objects.values():
        ready = next(each for each in obj["status"]["conditions"] if each["type"] == "Ready")
        assert (obj["status"]["phase"], ready["status"]) == ("Running", "True")
        addresses.append(obj["status"]["podIP"])
    assert len(addresses) == len(set(addresses))
    assert world.pods.running == len(addresses)


def copy_of(obj: Any) -> Any:
    return orjson.loads(orjson.dumps(obj))


def test_pods_that_are_at_rest_cost_no_writes() -> None:
    world = World()
    for number in range(10):
        world.create(f"p{number}")
    world.run(5)
    before = world.writes
    world.start()
    world.run(600)
    assert world.writes == before
    assert not len(world.timers)


def test_stages_without_delays_do_not_hold_the_loop_up() -> None:
    stages = [
        {"name": "a", "state": "running", "delay": 0, "then": "b"},
        {"name": "b", "state": "running", "ready": False, "delay": 0, "then": "a"},
    ]
    world = World(lifecycle.parse({"lifecycles": [{"name": "x", "stages": stages}]}))
    world.create("p")
    world.run(1)
    assert 50 <= world.writes <= 110


def test_what_another_writes_while_our_write_is_under_way_is_put_right() -> None:
    world = World()
    world.create("p")
    world.now += 1
    for item in world.timers.due(world.now):
        world.pods.on_timer(item, world.now)  # type: ignore[arg-type]
    (write,) = world.pods.take(10, world.now)
    landed = world.store(strategic_merge(PODS, world.objects["p"], orjson.loads(write.body)))
    world.see(landed)
    world.unready("p")  # seen before the answer to our write
    world.pods.on_results([(write, 200, int(landed["metadata"]["resourceVersion"]))], world.now)
    world.run(1)
    ready = next(each for each in world.objects["p"]["status"]["conditions"] if each["type"] == "Ready")
    assert (ready["status"], world.pods.running) == ("True", 1)


def test_a_status_that_is_refused_for_good_is_told() -> None:
    world = World()
    world.create("p")
    world.run(0.001)
    pods: Pods = world.pods
    world.now += 1
    for item in world.timers.due(world.now):
        pods.on_timer(item, world.now)  # type: ignore[arg-type]
    (write,) = pods.take(10, world.now)
    assert pods.on_results([(write, 422, 0)], world.now) == ["d/p"]
