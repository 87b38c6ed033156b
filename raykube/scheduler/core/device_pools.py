"""What drivers offer: ResourceSlices, put together to pools of devices.

    pool (driver, name)   slices of its newest generation; complete once there are as many as they say
    place                 one node, nodes by a selector, or all: of a slice, or of each of its devices
    counters              what devices of a pool share; one that is in use takes its part

A pool that is incomplete, or in which names are not unique, gives out nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from raykube.api import quantity
from raykube.api.device_selectors import Facts, qualified
from raykube.api.quantity import Number
from raykube.scheduler.core.taints import Taint

Object = dict[str, Any]
Attribute = tuple[str, Any]  # the value's kind, and the value


class PoolId(NamedTuple):
    driver: str
    name: str


class DeviceId(NamedTuple):
    driver: str
    pool: str
    name: str


class Place(NamedTuple):
    """Where a device can be used: on the node of that name, on all, or where the selector (its JSON) matches."""

    node: str
    everywhere: bool
    selector: bytes

    @property
    def is_wide(self) -> bool:
        return not self.node


class Consumption(NamedTuple):
    counter_set: str
    counter: str
    amount: Number


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a slice."""

    id: DeviceId
    place: Place
    facts: Facts | None  # None: of values that nobody can read, so it matches nothing
    attributes: Mapping[tuple[str, str], Attribute]
    taints: tuple[Taint, ...]
    consumes: tuple[Consumption, ...]
    capacity: Mapping[str, Object]  # as the slice has it
    shared: bool  # several claims may use it, as far as its capacity goes
    verdicts: dict[str, bool | str] = field(default_factory=dict)  # what selectors said, by their text


@dataclass(slots=True)
class Pool:
    """The newest generation of a pool."""

    id: PoolId
    complete: bool
    invalid: bool
    devices: tuple[Device, ...]  # in the order in which they are tried: by slice, then as in the slice
    counters: Mapping[tuple[str, str], Number]
    places: frozenset[Place]

    @property
    def usable(self) -> bool:
        return self.complete and not self.invalid


class Pools:
    """All pools, by the slices that the API has."""

    def __init__(self) -> None:
        self._slices: dict[str, tuple[PoolId, Object, tuple[Device, ...]]] = {}
        self._names: dict[PoolId, set[str]] = {}
        self._pools: dict[PoolId, Pool] = {}
        self._on_node: dict[str, dict[PoolId, None]] = {}
        self._wide: dict[PoolId, None] = {}

    def set_slice(self, name: str, obj: Object | None) -> set[Place]:
        """A slice as it is now (None: gone); where that may matter."""
        made = None
        if obj is not None:
            pool = PoolId(obj["spec"]["driver"], obj["spec"]["pool"]["name"])
            made = pool, obj["spec"], tuple(_devices(pool, obj["spec"]))
        changed = set()
        old = self._slices.pop(name, None)
        if old is not None:
            names = self._names[old[0]]
            names.discard(name)
            if not names:
                del self._names[old[0]]
            changed.add(old[0])
        if made is not None:
            self._slices[name] = made
            self._names.setdefault(made[0], set()).add(name)
            changed.add(made[0])
        places = self._places(changed)
        for pool in changed:
            self._rebuild(pool)
        return places | self._places(changed)

    def _places(self, pools: Iterable[PoolId]) -> set[Place]:
        return {place for pool in pools if pool in self._pools for place in self._pools[pool].places}

    def get(self, pool: PoolId) -> Pool | None:
        return self._pools.get(pool)

    def of_node(self, node: str) -> list[Pool]:
        """Pools that may have devices for a node, in that order."""
        return [self._pools[pool] for pool in sorted({*self._on_node.get(node, ()), *self._wide})]

    def _rebuild(self, pool: PoolId) -> None:
        old = self._pools.pop(pool, None)
        if old is not None:
            for place in old.places:
                here = self._wide if place.is_wide else self._on_node.get(place.node, {})
                here.pop(pool, None)
                if not place.is_wide and not here:
                    self._on_node.pop(place.node, None)
        names = self._names.get(pool)
        if not names:
            return
        slices = [self._slices[name] for name in sorted(names)]
        newest = max(spec["pool"].get("generation", 0) for _, spec, _ in slices)
        slices = [one for one in slices if one[1]["pool"].get("generation", 0) == newest]
        devices = tuple(device for _, _, found in slices for device in found)
        counters, twice = _counters(spec for _, spec, _ in slices)
        unknown = any((one.counter_set, one.counter) not in counters for device in devices for one in device.consumes)
        made = self._pools[pool] = Pool(
            pool,
            len(slices) == slices[0][1]["pool"].get("resourceSliceCount", 1),
            twice or unknown or len({device.id for device in devices}) < len(devices),
            devices,
            counters,
            frozenset(place for _, spec, _ in slices for place in _places(spec)),
        )
        for place in made.places:
            (self._wide if place.is_wide else self._on_node.setdefault(place.node, {}))[pool] = None


def _places(spec: Object) -> Iterator[Place]:
    if spec.get("perDeviceNodeSelection"):
        yield from (_place(device) for device in spec.get("devices") or ())
    elif not spec.get("sharedCounters"):
        yield _place(spec)


def _place(obj: Object) -> Place:
    selector = obj.get("nodeSelector")
    wanted = orjson.dumps(selector, option=orjson.OPT_SORT_KEYS) if selector else b""
    return Place(obj.get("nodeName") or "", bool(obj.get("allNodes")), wanted)


def _devices(pool: PoolId, spec: Object) -> Iterator[Device]:
    place = None if spec.get("perDeviceNodeSelection") else _place(spec)
    for device in spec.get("devices") or ():
        if device.get("bindingConditions"):
            continue  # not to be used before somebody says so, and nobody here would wait for it
        attributes = {qualified(name, pool.driver): _attribute(one) for name, one in _items(device, "attributes")}
        yield Device(
            DeviceId(pool.driver, pool.name, device["name"]),
            _place(device) if place is None else place,
            _facts(pool.driver, device),
            attributes,
            tuple(Taint(t["key"], t.get("value") or "", t["effect"]) for t in device.get("taints") or ()),
            tuple(
                Consumption(each["counterSet"], name, quantity.parse(one["value"]))
                for each in device.get("consumesCounters") or ()
                for name, one in each["counters"].items()
            ),
            device.get("capacity") or {},
            bool(device.get("allowMultipleAllocations")),
        )


def _items(device: Object, name: str) -> Iterable[tuple[str, Object]]:
    return (device.get(name) or {}).items()


def _attribute(value: Object) -> Attribute:
    return next(((kind, each) for kind, each in value.items() if each is not None), ("", None))


def _facts(driver: str, device: Object) -> Facts | None:
    try:
        return Facts(driver, device)
    except ValueError:
        return None


def _counters(specs: Iterable[Object]) -> tuple[dict[tuple[str, str], Number], bool]:
    """The counters of a pool, and whether a set of them is there twice."""
    found: dict[tuple[str, str], Number] = {}
    sets: list[str] = []
    for spec in specs:
        for one in spec.get("sharedCounters") or ():
            sets.append(one["name"])
            found |= {(one["name"], name): quantity.parse(each["value"]) for name, each in one["counters"].items()}
    return found, len(set(sets)) < len(sets)
