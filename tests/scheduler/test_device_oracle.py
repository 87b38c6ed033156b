"""The search against brute force, on random clusters: it finds devices where there are some, and the first of them."""

from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from raykube.scheduler.core.cluster import Cluster, Placement
from raykube.scheduler.core.devices import Grant
from tests.scheduler import device_oracle as oracle
from tests.scheduler.device_cluster import give, user
from tests.scheduler.device_objects import DRIVER, claim, device, device_class, exactly, option, resource_slice
from tests.scheduler.objects import node

Object = dict[str, Any]
PATH = f'device.attributes["{DRIVER}"]'
NODES = {"a": {"zone": "1"}, "b": {"zone": "2"}}
ZONE = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["1"]}]}]}
PARTS = [{"name": "set", "counters": {"memory": {"value": "4"}}}]


@st.composite
def some_devices(draw: st.DrawFn, counted: bool, places: bool) -> list[Object]:
    found = []
    for number in range(draw(st.integers(0, 3))):
        one = device(f"d{number}", model=draw(st.integers(0, 1)), half=draw(st.integers(0, 1)))
        if draw(st.booleans()) and draw(st.booleans()):
            del one["attributes"]["half"]
        if draw(st.integers(0, 4)) == 0:
            one["taints"] = [{"key": "bad", "effect": "NoSchedule"}]
        if counted:
            amount = str(draw(st.integers(1, 4)))
            one["consumesCounters"] = [{"counterSet": "set", "counters": {"memory": {"value": amount}}}]
        if places:
            one |= draw(
                st.sampled_from([{"nodeName": "a"}, {"nodeName": "b"}, {"allNodes": True}, {"nodeSelector": ZONE}])
            )
        found.append(one)
    return found


@st.composite
def slices(draw: st.DrawFn) -> list[Object]:
    found = []
    for name in NODES:
        counted = draw(st.booleans())
        count = 1 + counted
        missing = draw(st.integers(0, 5)) == 0
        found.append(resource_slice(f"{name}-0", name, draw(some_devices(counted, False)), count=count + missing))
        if counted:
            found.append(resource_slice(f"{name}-1", name, count=count + missing, sharedCounters=PARTS))
    wide = draw(st.sampled_from([None, {"allNodes": True}, {"nodeSelector": ZONE}, {"perDeviceNodeSelection": True}]))
    if wide is not None:
        found.append(resource_slice("w", devices=draw(some_devices(False, "perDeviceNodeSelection" in wide)), **wide))
    if draw(st.booleans()):
        found.append(resource_slice("a-old", "a", [device("old", model=0)], generation=0))
    return found


@st.composite
def options(draw: st.DrawFn) -> Object:
    expressions = [f"{PATH}.model == {draw(st.integers(0, 1))}"] if draw(st.booleans()) else []
    more: Object = {"tolerations": [{"key": "bad", "operator": "Exists"}]} if draw(st.booleans()) else {}
    if draw(st.integers(0, 7)) == 0:
        more["adminAccess"] = True
    device_class = draw(st.sampled_from(["gpu", "gpu", "first"]))
    return option(draw(st.sampled_from([1, 1, 2, 0])), *expressions, device_class=device_class, **more)


@st.composite
def claims(draw: st.DrawFn, name: str) -> Object:
    requests: list[Object] = []
    for number in range(draw(st.integers(1, 2))):
        if draw(st.booleans()):
            requests.append(exactly(f"r{number}") | {"exactly": draw(options())})
        else:
            alternatives = [{"name": f"s{each}"} | draw(options()) for each in range(2)]
            requests.append({"name": f"r{number}", "firstAvailable": alternatives})
    constraints = []
    kind = draw(st.sampled_from([None, None, "matchAttribute", "distinctAttribute"]))
    if kind is not None:
        names = draw(st.sampled_from([None, ["r0"], [requests[-1]["name"]]]))
        constraints.append({kind: f"{DRIVER}/half"} | ({"requests": names} if names else {}))
    return claim(name, *requests, **({"constraints": constraints} if constraints else {}))


def chosen(placed: Placement, names: list[str]) -> list[list[oracle.Choice]]:
    grants = {one.claim["metadata"]["name"]: one for one in placed.reservations if isinstance(one, Grant)}
    found = []
    for name in names:
        allocation = grants[name].allocation
        assert allocation is not None
        found.append([(r["request"], r["driver"], r["pool"], r["device"]) for r in allocation["devices"]["results"]])
    return found


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_devices_are_found_exactly_where_there_are_some(data: st.DataObject) -> None:
    classes = [device_class(), device_class("first", f"{PATH}.model == 0")]
    offered = data.draw(slices())
    cluster = Cluster()
    for name, labels in NODES.items():
        cluster.on_node(node(name, labels=labels))
    for one in (*classes, *data.draw(st.permutations(offered))):
        give(cluster, one)
    world = oracle.World(NODES, offered, {one["metadata"]["name"]: one for one in classes})
    for number in range(data.draw(st.integers(1, 4))):
        mine = [data.draw(claims(f"c{number}-{each}")) for each in range(data.draw(st.integers(1, 2)))]
        for one in mine:
            give(cluster, one)
        names = [one["metadata"]["name"] for one in mine]
        possible = {}
        for name in NODES:
            # All of an incomplete pool is nothing that anybody could know.
            first = next(oracle.solutions(world, name, mine), None)
            if first is not None and not _asks_all_of_what_is_unknown(world, name, mine):
                possible[name] = first
        found = cluster.schedule(cluster.read_pod(user(f"p{number}", *names)))
        event("placed" if isinstance(found, Placement) else "nowhere")
        if not isinstance(found, Placement):
            assert not possible, (found.message, possible)
            continue
        assert found.node in possible
        allocations = chosen(found, names)
        assert not oracle.violations(world, found.node, mine, allocations)
        assert allocations == possible[found.node], "not the first that there is"
        world.allocated += [one.allocation for one in found.reservations if isinstance(one, Grant) and one.allocation]
        if data.draw(st.integers(0, 3)) == 0:
            cluster.refused(f"uid-p{number}")
            del world.allocated[-len(mine) :]


def _asks_all_of_what_is_unknown(world: oracle.World, name: str, mine: list[Object]) -> bool:
    usable = oracle.pools(world)
    unknown = [
        one["spec"]
        for one in world.slices
        if (one["spec"]["driver"], one["spec"]["pool"]["name"]) not in usable
        and oracle.reaches(one["spec"], name, world.nodes[name])
    ]
    asks = any(
        each["allocationMode"] == "All"
        for one in mine
        for request in one["spec"]["devices"]["requests"]
        for _, each in oracle.options_of(request)
    )
    return bool(unknown) and asks
