"""Devices by brute force: loops over objects, from what the API documents, with nothing of the scheduler's.

`solutions(world, node, claims)` yields every way to give the claims devices of a node; `violations` says what is wrong
with allocations that somebody made. Slow on purpose: every combination is tried.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from typing import Any

Object = dict[str, Any]
Choice = tuple[str, str, str, str]  # request, driver, pool, device


class World:
    """Nodes by name with their labels, slices, classes, and the claims that have devices already."""

    def __init__(self, nodes: dict[str, dict[str, str]], slices: list[Object], classes: dict[str, Object]) -> None:
        self.nodes, self.slices, self.classes = nodes, slices, classes
        self.allocated: list[Object] = []  # status.allocation of other claims


def number(text: str) -> Fraction:
    for suffix, factor in (("Gi", 2**30), ("G", 10**9), ("M", 10**6)):
        if text.endswith(suffix):
            return Fraction(text.removesuffix(suffix)) * factor
    return Fraction(text)


def reaches(place: Object, node: str, labels: dict[str, str]) -> bool:
    if place.get("nodeName"):
        return bool(place["nodeName"] == node)
    if place.get("allNodes"):
        return True
    for term in (place.get("nodeSelector") or {}).get("nodeSelectorTerms", []):
        if all(labels.get(one["key"]) in one["values"] for one in term["matchExpressions"]):
            return True
    return False


def pools(world: World) -> dict[tuple[str, str], list[Object]]:
    """The slices of each pool that is complete and makes sense, in their order."""
    found: dict[tuple[str, str], list[Object]] = {}
    for one in sorted(world.slices, key=lambda one: one["metadata"]["name"]):
        spec = one["spec"]
        found.setdefault((spec["driver"], spec["pool"]["name"]), []).append(spec)
    usable = {}
    for key, specs in sorted(found.items()):
        newest = max(spec["pool"]["generation"] for spec in specs)
        specs = [spec for spec in specs if spec["pool"]["generation"] == newest]
        names = [device["name"] for spec in specs for device in spec.get("devices", [])]
        if len(specs) == specs[0]["pool"]["resourceSliceCount"] and len(set(names)) == len(names):
            usable[key] = specs
    return usable


def devices(world: World, node: str) -> Iterator[tuple[tuple[str, str], Object]]:
    """(pool, device) of all that the node reaches, in the order in which they are tried."""
    labels = world.nodes[node]
    for key, specs in pools(world).items():
        for spec in specs:
            for device in spec.get("devices", []):
                if reaches(device if spec.get("perDeviceNodeSelection") else spec, node, labels):
                    yield key, device


def matches(device: Object, option: Object, classes: dict[str, Object]) -> bool:
    """Selectors of the test's one shape: `device.attributes["DRIVER"].NAME == VALUE`."""
    selectors = [*classes[option["deviceClassName"]]["spec"].get("selectors", []), *option.get("selectors", [])]
    for selector in selectors:
        left, value = selector["cel"]["expression"].split(" == ")
        attribute = device["attributes"].get(left.rpartition(".")[2])
        if attribute is None or str(next(iter(attribute.values()))) != value:
            return False
    tolerated = {one["key"] for one in option.get("tolerations", [])}
    return all(taint["key"] in tolerated for taint in device.get("taints", []))


def holds(claim: Object, chosen: list[tuple[str, Object]]) -> bool:
    """Whether the constraints of a claim do. `chosen`: (request, device)."""
    for constraint in claim["spec"]["devices"].get("constraints", []):
        name = constraint.get("matchAttribute") or constraint["distinctAttribute"]
        names = constraint.get("requests")
        concerned = [d for request, d in chosen if not names or request in names or request.split("/")[0] in names]
        values = [d["attributes"].get(name.partition("/")[2]) for d in concerned]
        if None in values:
            return False
        distinct = {str(value) for value in values}
        if "matchAttribute" in constraint and len(distinct) > 1:
            return False
        if "distinctAttribute" in constraint and len(distinct) < len(values):
            return False
    return True


def taken(world: World, also: list[Choice]) -> set[tuple[str, str, str]]:
    found = {
        (one["driver"], one["pool"], one["device"])
        for allocation in world.allocated
        for one in allocation["devices"]["results"]
        if not one.get("adminAccess")
    }
    return found | {one[1:] for one in also}


def counters_suffice(world: World, used: set[tuple[str, str, str]]) -> bool:
    for key, specs in pools(world).items():
        left = {
            (group["name"], name): number(one["value"])
            for spec in specs
            for group in spec.get("sharedCounters", [])
            for name, one in group["counters"].items()
        }
        for spec in specs:
            for device in spec.get("devices", []):
                if (*key, device["name"]) in used:
                    for each in device.get("consumesCounters", []):
                        for name, one in each["counters"].items():
                            left[each["counterSet"], name] -= number(one["value"])
        if any(amount < 0 for amount in left.values()):
            return False
    return True


def options_of(request: Object) -> list[tuple[str, Object]]:
    if "firstAvailable" in request:
        return [(f"{request['name']}/{one['name']}", one) for one in request["firstAvailable"]]
    return [(request["name"], request["exactly"])]


def solutions(world: World, node: str, claims: list[Object]) -> Iterator[list[list[Choice]]]:
    """Every way, in the order in which a search finds them: the choices of each claim."""
    requests = [
        (number, request) for number, claim in enumerate(claims) for request in claim["spec"]["devices"]["requests"]
    ]
    there = list(devices(world, node))

    def extend(rest: list[tuple[int, Object]], chosen: list[list[Choice]]) -> Iterator[list[list[Choice]]]:
        if not rest:
            if valid(world, node, claims, chosen):
                yield chosen
            return
        claim, request = rest[0]
        for name, option in options_of(request):
            fitting = [(*key, device["name"]) for key, device in there if matches(device, option, world.classes)]
            count = option["count"] if option["allocationMode"] == "ExactCount" else max(len(fitting), 1)
            for some in combinations(fitting, count):
                more = [*chosen[claim], *((name, *one) for one in some)]
                yield from extend(rest[1:], [*chosen[:claim], more, *chosen[claim + 1 :]])

    yield from extend(requests, [[] for _ in claims])


def valid(world: World, node: str, claims: list[Object], chosen: list[list[Choice]]) -> bool:
    return not violations(world, node, claims, chosen)


def violations(world: World, node: str, claims: list[Object], chosen: list[list[Choice]]) -> list[str]:
    """What is wrong with what the claims get on a node."""
    found = []
    there = {(*key, device["name"]): device for key, device in devices(world, node)}
    exclusive: list[Choice] = []
    for claim, choices in zip(claims, chosen, strict=True):
        by_request: dict[str, list[Choice]] = {}
        for one in choices:
            by_request.setdefault(one[0].split("/")[0], []).append(one)
        for request in claim["spec"]["devices"]["requests"]:
            mine = by_request.pop(request["name"], [])
            named = dict(options_of(request))
            if len({one[0] for one in mine}) != 1 or mine[0][0] not in named:
                found.append(f"{request['name']}: not one option of it")
                continue
            option = named[mine[0][0]]
            fitting = [name for name, device in there.items() if matches(device, option, world.classes)]
            count = option["count"] if option["allocationMode"] == "ExactCount" else len(fitting)
            if len(mine) != count or len(set(mine)) != count:
                found.append(f"{request['name']}: {len(mine)} devices, not {count}")
            found += [f"{one} does not suit {request['name']}" for one in mine if one[1:] not in fitting]
            if not option.get("adminAccess"):
                exclusive += mine
        found += [f"nobody asked for {name}" for name in by_request]
        if any(one[1:] not in there for one in choices):
            found.append("out of the node's reach")
        elif not holds(claim, [(one[0], there[one[1:]]) for one in choices]):
            found.append("a constraint does not hold")
    names = [one[1:] for one in exclusive]
    if len(set(names)) < len(names) or set(names) & taken(world, []):
        found.append("a device is taken twice")
    if not counters_suffice(world, taken(world, exclusive)):
        found.append("counters are overdrawn")
    return found
