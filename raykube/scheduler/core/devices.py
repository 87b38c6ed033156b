"""Devices as a filter on nodes, and which ones the claims of a pod get when it is placed (Dynamic Resource Allocation).

    claim     allocated        the nodes of its devices, for as many pods as may share it
              being allocated  another pod of it is being placed: wait for what comes of that
              free             nodes where a search finds devices for all of the pod's claims

Devices chosen for a placed pod are assumed: no other claim gets them. The API's own word (`status.allocation`)
replaces that; what the scheduler itself wrote counts as such from the answer on (`wrote`), so that a watch which lags
frees nothing.

Where claims can be had is known per *shape* (`device_shapes`: what they ask for, without their names).
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import orjson

from raykube.api import quantity, resource_claims
from raykube.api.quantity import Number
from raykube.api.resource_claims import PodClaim
from raykube.scheduler.core.device_allocation import InUse, Search
from raykube.scheduler.core.device_pools import DeviceId, PoolId, Pools
from raykube.scheduler.core.device_reach import Reach
from raykube.scheduler.core.device_requests import Key, Reason, Unusable, missing_class
from raykube.scheduler.core.device_results import allocation_of
from raykube.scheduler.core.device_shapes import Shapes
from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.pod import Pod

Object = dict[str, Any]

IN_USE = "resourceclaim in use"


class Grant(NamedTuple):
    """What must be written before the pod is bound: devices for a claim, and that the pod may use it."""

    claim: Object
    allocation: Object | None  # None: it has devices already
    pod: Object  # its entry in `reservedFor`


@dataclass(frozen=True, slots=True)
class Devices:
    """What the claims of one pod allow."""

    unavailable: Mask  # an allocated claim cannot be used there
    unallocatable: Mask  # the others cannot all be had
    reasons: dict[int, Reason]  # why, where that is more than that no device is left
    names: list[str]  # of the claims that have no devices yet


class News(NamedTuple):
    """What may help pods that wait."""

    free: bool  # devices came, or are free that were not
    waiters: frozenset[str]  # uids of pods that waited for what becomes of a claim


class _Use(NamedTuple):
    device: DeviceId
    consumed: tuple[tuple[str, Number], ...] | None  # None: it has the device for itself


class _Assumed(NamedTuple):
    pod: str  # uid
    claim: str  # uid
    allocation: Object


class DeviceTable:
    """All claims, classes and slices, with what is assumed. Objects are never changed."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._pools = Pools()
        self._classes: dict[str, Object] = {}
        self._claims: dict[Key, Object] = {}
        self._assumed: dict[Key, _Assumed] = {}
        self._of_pod: dict[str, set[Key]] = {}
        self._writing: dict[str, bool] = {}  # pods whose grants are on their way → to be released after that
        self._uses: dict[Key, tuple[_Use, ...]] = {}
        self._taken: Counter[DeviceId] = Counter()
        self._consumed: dict[DeviceId, Counter[str]] = {}
        self._waiters: dict[Key, set[str]] = {}  # uids of pods that a claim keeps from being placed
        self.waits: dict[str, Key] = {}  # the same by pod
        self._free = False  # since `news` was last asked
        self._woken: set[str] = set()
        self._reach = Reach(nodes, self._pools)
        self._shapes = Shapes(nodes, self._reach, lambda: InUse(self._taken, self._consumed))

    # -- what the API says

    def set_slice(self, name: str, obj: Object | None) -> None:
        places = self._pools.set_slice(name, obj)
        self._reach.on_slices(places)
        self._shapes.touch(places)
        self._free |= obj is not None

    def set_class(self, name: str, obj: Object | None) -> None:
        old = self._classes.pop(name, None)
        if obj is not None:
            self._classes[name] = obj
        changed = (old or {}).get("spec") != (obj or {}).get("spec") or (old is None) != (obj is None)
        if changed:
            self._shapes.clear()
        self._free |= changed and obj is not None

    def set_claim(self, key: Key, claim: Object | None) -> None:
        old = self._claims.get(key)
        if claim is None:
            self._claims.pop(key, None)
        else:
            if old is not None and _revision(claim) < _revision(old):
                return  # the watch has not come to what was written
            self._claims[key] = claim
        self._free |= self._settle(key)
        self._wake(key)

    def wrote(self, claim: Object) -> None:
        """A claim as the API answered. One that is gone, or another one by now, is no news."""
        key = _key(claim)
        known = self._claims.get(key)
        if known is not None and known["metadata"]["uid"] == claim["metadata"]["uid"]:
            self.set_claim(key, claim)

    def news(self) -> News:
        """Since it was last asked."""
        found = News(self._free, frozenset(self._woken))
        self._free = False
        self._woken.clear()
        return found

    def _wake(self, key: Key) -> None:
        """Pods that were rejected for the state of a claim are to be tried again."""
        for uid in self._waiters.pop(key, ()):
            del self.waits[uid]
            self._woken.add(uid)

    def on_settled(self, uid: str) -> None:
        """The pod waits no longer."""
        key = self.waits.pop(uid, None)
        if key is not None:
            self._waiters[key].discard(uid)
            if not self._waiters[key]:
                del self._waiters[key]

    # -- decisions

    def judge(self, pod: Pod) -> Devices | str:
        """Where the pod's claims let it run; or why it may not run anywhere now."""
        claims: dict[str, Object] = {}
        for one in pod.devices:
            found = self._usable(pod, one)
            if isinstance(found, str):
                return found
            claims[one.claim] = found
        none = np.zeros(self._nodes.capacity, bool)
        unavailable = none.copy()
        free: list[Object] = []
        for claim in claims.values():
            allocation = resource_claims.allocation(claim)
            if allocation is None:
                free.append(claim)
            elif allocation.get("nodeSelector"):
                unavailable |= ~self._reach.matching(orjson.dumps(allocation["nodeSelector"]))
        if not free:
            return Devices(unavailable, none, {}, [])
        names = ["/".join(_key(claim)) for claim in free]
        try:
            shape = self._shapes.of(free, self._classes)
        except Unusable as error:
            return error.reason.said(names)
        self._shapes.catch_up(shape)
        return Devices(unavailable, ~shape.fits, shape.reasons, names)

    def choose(self, pod: Pod, row: int) -> list[Grant]:
        """Devices for the claims of a pod that `judge` permitted on this row; they are assumed."""
        claims = {one.claim: self._claims[pod.namespace, one.claim] for one in pod.devices}
        free = [claim for claim in claims.values() if resource_claims.allocation(claim) is None]
        found: dict[Key, Object] = {}
        if free:
            shape = self._shapes.of(free, self._classes)
            node = self._nodes.names[row]
            choices = Search(self._reach.offers(row), shape.wanted, InUse(self._taken, self._consumed)).run()
            assert choices is not None, "judge comes first"
            for claim, wanted, chosen in zip(free, shape.wanted, choices, strict=True):
                key = _key(claim)
                uid = claim["metadata"]["uid"]
                found[key] = allocation_of(uid, wanted, chosen, node)
                self._assumed[key] = _Assumed(pod.uid, uid, found[key])
                self._of_pod.setdefault(pod.uid, set()).add(key)
                self._settle(key)
        entry = resource_claims.consumer(pod.name, pod.uid)
        return [
            Grant(claim, found.get(_key(claim)), entry)
            for claim in claims.values()
            if not resource_claims.is_reserved_for(claim, pod.uid)
        ]

    def begin(self, uid: str, grants: Iterable[Grant]) -> bool:
        """What was chosen for the pod is written from now on; False: it is not assumed any more, and must not be."""
        for one in grants:
            assumed = self._assumed.get(_key(one.claim))
            if one.allocation is not None and (assumed is None or assumed.allocation is not one.allocation):
                return False
        self._writing[uid] = False
        return True

    def end(self, uid: str) -> None:
        """It is known what came of the writes."""
        if self._writing.pop(uid, False):
            self.release(uid)

    def release(self, uid: str) -> None:
        """Nothing is assumed for the pod any more: it is bound, gone, or was not placed after all.

        While its grants are written they may come to the API yet, so its devices are nobody else's until that ends.
        """
        if uid in self._writing:
            self._writing[uid] = True
            return
        for key in self._of_pod.get(uid, ()):
            self._wake(key)
        self._free |= self.withdraw(uid)

    def withdraw(self, uid: str) -> bool:
        """The pod was placed only to see whether it could be: nobody is told. Whether it had devices."""
        free = False
        for key in self._of_pod.pop(uid, ()):
            if self._assumed.get(key) is not None and self._assumed[key].pod == uid:
                del self._assumed[key]
                free |= self._settle(key)
        return free

    def claim(self, key: Key) -> Object | None:
        return self._claims.get(key)

    def idle(self, pod: Pod) -> Object | None:
        """A claim of the pod with devices that nobody else may use, and that not all nodes reach."""
        for one in pod.devices:
            claim = self._claims.get((pod.namespace, one.claim))
            if claim is None or not (resource_claims.allocation(claim) or {}).get("nodeSelector"):
                continue
            if all(entry.get("uid") == pod.uid for entry in resource_claims.reserved_for(claim)):
                return claim
        return None

    # -- claims

    def _usable(self, pod: Pod, one: PodClaim) -> Object | str:
        """The claim; or why no pod can be placed with it now."""
        full = f"{pod.namespace}/{one.claim}"
        if not one.claim:
            return f'pod "{pod.namespace}/{pod.name}": ResourceClaim not created yet'
        key = pod.namespace, one.claim
        claim = self._claims.get(key)
        problem = ""
        if claim is None:
            problem = f'could not find ResourceClaim "{full}"'
        elif claim["metadata"].get("deletionTimestamp"):
            problem = f'resourceclaim "{one.claim}" is being deleted'
        elif one.owned:
            problem = resource_claims.not_owned(claim, pod.namespace, pod.name, pod.uid)
        if claim is not None and not problem:
            if resource_claims.allocation(claim) is None:
                assumed = self._assumed.get(key)
                if assumed is not None and assumed.pod != pod.uid:
                    problem = f"resource claim {full} is in the process of being allocated"
                else:
                    return missing_class(claim["spec"], self._classes) or claim
            elif resource_claims.can_be_reserved(claim) or resource_claims.is_reserved_for(claim, pod.uid):
                return claim
            else:
                problem = IN_USE
        self.on_settled(pod.uid)
        self._waiters.setdefault(key, set()).add(pod.uid)
        self.waits[pod.uid] = key
        return problem

    def _settle(self, key: Key) -> bool:
        """Counts what a claim holds now: what the API says, else what is assumed. Whether it gave devices back."""
        claim, assumed = self._claims.get(key), self._assumed.get(key)
        allocation = None if claim is None else resource_claims.allocation(claim)
        if allocation is None and assumed is not None and claim is not None:
            allocation = assumed.allocation if assumed.claim == claim["metadata"]["uid"] else None
        before, now = self._uses.pop(key, ()), _uses_of(allocation)
        if now:
            self._uses[key] = now
        if before == now:
            return False
        for uses, sign in ((before, -1), (now, 1)):
            for use in uses:
                self._count(use, sign)
        pools = {PoolId(use.device.driver, use.device.pool) for use in (*before, *now)}
        self._shapes.touch({place for pool in pools if (known := self._pools.get(pool)) for place in known.places})
        return not set(before) <= set(now)

    def _count(self, use: _Use, sign: int) -> None:
        if use.consumed is None:
            self._taken[use.device] += sign
            if not self._taken[use.device]:
                del self._taken[use.device]
            return
        amounts = self._consumed.setdefault(use.device, Counter())
        amounts[""] += sign  # how many there are, also of those that consume nothing
        for name, amount in use.consumed:
            amounts[name] += sign * amount  # type: ignore[assignment]
        if not amounts[""]:
            del self._consumed[use.device]


def _key(claim: Object) -> Key:
    return claim["metadata"].get("namespace", ""), claim["metadata"]["name"]


def _revision(obj: Object) -> int:
    return int(obj["metadata"].get("resourceVersion") or 0)


def _uses_of(allocation: Object | None) -> tuple[_Use, ...]:
    """What of the devices of an allocation is not free for others."""
    found = []
    for one in ((allocation or {}).get("devices") or {}).get("results") or ():
        if one.get("adminAccess"):
            continue
        device = DeviceId(one["driver"], one["pool"], one["device"])
        consumed = one.get("consumedCapacity") or {}
        amounts = tuple((name, quantity.parse(amount)) for name, amount in consumed.items())
        found.append(_Use(device, amounts if one.get("shareID") else None))
    return tuple(found)
