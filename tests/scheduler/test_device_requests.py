"""What claims ask for: selectors, alternatives, counts, constraints, tolerations."""

from typing import Any

import pytest

from raykube.scheduler.core.cluster import Placement
from raykube.scheduler.core.device_allocation import VERDICTS_MAX, matches
from raykube.scheduler.core.device_pools import Pools
from raykube.scheduler.core.device_requests import wanted_of
from raykube.scheduler.core.diagnosis import Diagnosis
from tests.scheduler.device_cluster import cluster, give, gpus, grants, results, schedule, user, why
from tests.scheduler.device_objects import DRIVER, claim, device, device_class, exactly, option, resource_slice
from tests.scheduler.objects import node

Object = dict[str, Any]
ATTRIBUTES = f'device.attributes["{DRIVER}"]'


def test_selectors_of_the_class_and_of_the_request_must_both_hold() -> None:
    devices = [device("g0", model="a", index=0), device("g1", model="b", index=1), device("g2", model="b", index=2)]
    found = cluster(
        node("a"),
        resource_slice("s", "a", devices),
        device_class("gpu", f'device.driver == "{DRIVER}"', f'{ATTRIBUTES}.model == "b"'),
        claim("c", exactly("gpu", 1, f"{ATTRIBUTES}.index > 1")),
    )
    assert results(schedule(found, user("p", "c"))) == ["gpu=g2"]


def test_a_selector_that_fails_keeps_the_pod_off_that_node() -> None:
    found = cluster(
        node("a"),
        node("b"),
        resource_slice("s", "a", gpus("g0")),
        resource_slice("t", "b", gpus("g0", model="x")),
        device_class("gpu", f'{ATTRIBUTES}.model == "x"'),
        claim("c", exactly()),
        claim("d", exactly(device_class="bad")),
        device_class("bad", "nobody(1)"),
    )
    placed = schedule(found, user("p", "c"))
    assert isinstance(placed, Placement) and placed.node == "b"
    give(found, claim("e", exactly()))
    assert why(schedule(found, user("q", "e"))) == (
        "1 cannot allocate all claims, 1 class gpu: selector #0: CEL runtime error: no such key: model"
    )
    undeclared = "compilation failed: undeclared reference to 'nobody' (in container '')"
    assert why(schedule(found, user("r", "d"))) == f"class bad: selector #0: CEL compile error: {undeclared}"


def test_each_pod_is_told_of_its_own_claim() -> None:
    found = cluster(
        node("a"), resource_slice("s", "a", gpus("g0")), device_class(), device_class("bad", 'device.driver == "x"')
    )
    for name in ("c0", "c1"):
        give(found, claim(name, exactly("gpu", 1, f'{ATTRIBUTES}.model == "x"')))
        text = f"1 claim d/{name}: selector #0: CEL runtime error: no such key: model"
        assert why(schedule(found, user(f"p-{name}", name))) == text
    # Which one of several it is about.
    for name in ("d0", "d1"):
        give(found, claim(name, exactly()))
    text = "1 claim d/c1: selector #0: CEL runtime error: no such key: model"
    assert why(schedule(found, user("q", "d0", "c1"))) == text
    assert why(schedule(found, user("r", "d1", "c1"))) == text


def test_what_selectors_said_of_a_device_does_not_grow_for_ever() -> None:
    pools = Pools()
    pools.set_slice("s", resource_slice("s", "a", gpus("g0")))
    (one,) = pools.of_node("a")[0].devices
    for number in range(3 * VERDICTS_MAX):
        spec = claim("c", exactly("gpu", 1, f"{number} > {VERDICTS_MAX}"))["spec"]
        for _ in range(2):
            option = wanted_of(0, spec, {"gpu": device_class()}).requests[0].options[0]
            assert matches(one, option) == (number > VERDICTS_MAX)
    assert len(one.verdicts) == VERDICTS_MAX


def test_the_first_alternative_that_can_be_had_is_taken_with_its_configuration() -> None:
    def parameters(name: str) -> Object:
        return {"opaque": {"driver": DRIVER, "parameters": {"name": name}}}

    alternatives = [
        {"name": "big"} | option(1, f'{ATTRIBUTES}.model == "big"', device_class="large"),
        {"name": "small"} | option(2),
    ]
    config = [parameters("all"), parameters("b") | {"requests": ["gpu/big"]}, parameters("s") | {"requests": ["gpu"]}]
    found = cluster(
        node("a"),
        resource_slice("s", "a", [device("g0", model="s"), device("g1", model="s"), device("g2", model="big")]),
        device_class("gpu", config=[parameters("class")]),
        device_class("large", config=[parameters("large")]),
    )
    for name in ("c0", "c1", "c2"):
        give(found, claim(name, {"name": "gpu", "firstAvailable": alternatives}, config=config))
    first = schedule(found, user("p0", "c0"))
    assert results(first) == ["gpu/big=g2"]

    def told(placed: Placement | Diagnosis) -> list[tuple[str, str]]:
        allocation = grants(placed)[0].allocation or {}
        return [(one["source"], one["opaque"]["parameters"]["name"]) for one in allocation["devices"]["config"]]

    assert told(first) == [
        ("FromClass", "large"),
        ("FromClaim", "all"),
        ("FromClaim", "b"),
        ("FromClaim", "s"),
    ]
    second = schedule(found, user("p1", "c1"))
    assert results(second) == ["gpu/small=g0", "gpu/small=g1"]
    assert told(second) == [("FromClass", "class"), ("FromClaim", "all"), ("FromClaim", "s")]
    assert why(schedule(found, user("p2", "c2"))) == "1 cannot allocate all claims"


def test_all_means_all_and_at_least_one() -> None:
    everything = exactly("gpu", 0)
    found = cluster(
        node("a"),
        node("b"),
        resource_slice("s", "a", gpus("g0", "g1")),
        device_class(),
        claim("c0", everything),
        claim("c1", everything),
    )
    assert results(schedule(found, user("p0", "c0"))) == ["gpu=g0", "gpu=g1"]
    assert why(schedule(found, user("p1", "c1"))) == "2 cannot allocate all claims"


@pytest.mark.parametrize(("distinct", "expected"), [(False, ["x=g1", "y=g2"]), (True, ["x=g0", "y=g1"])])
def test_constraints_hold_across_requests(distinct: bool, expected: list[str]) -> None:
    devices = [device("g0", numa=0), device("g1", numa=1), device("g2", numa=1)]
    constraint = {"distinctAttribute" if distinct else "matchAttribute": f"{DRIVER}/numa"}
    found = cluster(
        node("a"),
        resource_slice("s", "a", devices),
        device_class(),
        claim("c", exactly("x"), exactly("y"), constraints=[constraint]),
    )
    assert results(schedule(found, user("p", "c"))) == expected


def test_a_constraint_concerns_only_its_requests_and_devices_must_have_the_attribute() -> None:
    devices = [device("g0"), device("g1", numa=1), device("g2", numa=1)]
    constraint = {"requests": ["x", "y"], "matchAttribute": f"{DRIVER}/numa"}
    found = cluster(
        node("a"),
        resource_slice("s", "a", devices),
        device_class(),
        claim("c", exactly("x"), exactly("y"), exactly("z"), constraints=[constraint]),
    )
    assert results(schedule(found, user("p", "c"))) == ["x=g1", "y=g2", "z=g0"]


def test_who_administers_sees_devices_that_others_use() -> None:
    found = cluster(node("a"), resource_slice("s", "a", gpus("g0")), device_class())
    give(found, claim("c0", exactly()))
    give(found, claim("c1", exactly(adminAccess=True)))
    give(found, claim("c2", exactly()))
    assert results(schedule(found, user("p0", "c0"))) == ["gpu=g0"]
    admin = schedule(found, user("p1", "c1"))
    assert (grants(admin)[0].allocation or {})["devices"]["results"][0]["adminAccess"] is True
    found.refused("uid-p0")
    assert results(schedule(found, user("p2", "c2"))) == ["gpu=g0"], "it takes nothing from others"


def test_tainted_devices_are_for_those_who_tolerate_it() -> None:
    tainted = device("g0") | {"taints": [{"key": "broken", "value": "x", "effect": "NoSchedule"}]}
    found = cluster(node("a"), resource_slice("s", "a", [tainted]), device_class())
    give(found, claim("c0", exactly()))
    toleration = {"key": "broken", "operator": "Exists"}
    give(found, claim("c1", exactly(tolerations=[toleration])))
    assert why(schedule(found, user("p0", "c0"))) == "1 cannot allocate all claims"
    placed = schedule(found, user("p1", "c1"))
    assert (grants(placed)[0].allocation or {})["devices"]["results"][0]["tolerations"] == [toleration]


def test_two_claims_of_a_pod_get_devices_of_one_node() -> None:
    found = cluster(
        node("a"),
        node("b"),
        resource_slice("s", "a", gpus("a0")),
        resource_slice("t", "b", gpus("b0", "b1")),
        device_class(),
        claim("c0", exactly()),
        claim("c1", exactly()),
    )
    placed = schedule(found, user("p", "c0", "c1"))
    assert isinstance(placed, Placement) and placed.node == "b"
    assert results(placed) == ["gpu=b0", "gpu=b1"]


def test_a_search_that_would_never_end_gives_up() -> None:
    devices = [device(f"g{number:02}", half=number % 2, other=number) for number in range(30)]
    match = [{"matchAttribute": f"{DRIVER}/half"}, {"distinctAttribute": f"{DRIVER}/half"}]
    found = cluster(
        node("a"),
        resource_slice("s", "a", devices),
        device_class(),
        claim("c", exactly("x", 9), exactly("y", 9), exactly("z", 2), constraints=[{"requests": ["z"]} | match[1]]),
        claim("d", exactly("x", 16), constraints=[match[0]]),
    )
    assert why(schedule(found, user("q", "d"))) == "1 cannot allocate all claims"
    assert len(results(schedule(found, user("p", "c")))) == 20


def test_too_many_devices_are_an_error_of_the_claim() -> None:
    found = cluster(node("a"), device_class(), claim("c", exactly("gpu", 33)))
    assert why(schedule(found, user("p", "c"))) == (
        "claim d/c: number of requested devices 33 exceeds the claim limit of 32"
    )
