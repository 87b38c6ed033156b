"""Which ResourceClaims of a pod must be prepared by which drivers, and which devices each container gets of them.

    claim.status.allocation ──by driver──► NodePrepareResources ──► devices with CDI ids
    container.resources.claims[]           a claim of the pod by its name there; with `request`: a part of it

What was prepared is kept in a file, so that a kubelet which starts again knows what is to be given back, and to whom.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from raykube.api import resource_claims
from raykube.api.resource_claims import PodClaim
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object


class DevicesFailed(Exception):
    """Devices could not be made ready, or be given back; the message is Kubernetes'."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its driver prepared it. `requests` empty: of all requests of the claim."""

    requests: tuple[str, ...]
    cdi: tuple[str, ...]  # fully qualified names: vendor/class=device


@dataclass(slots=True)
class Prepared:
    """A claim for which drivers were asked, and the pods here that use it."""

    uid: str
    namespace: str
    name: str
    allocation: str  # see `digest`: a claim that is given back may be allocated anew
    pods: set[str] = field(default_factory=set)  # uids
    drivers: dict[str, tuple[Device, ...] | None] = field(default_factory=dict)  # None: asked, and no answer yet

    @property
    def is_ready(self) -> bool:
        return all(devices is not None for devices in self.drivers.values())

    def to_object(self) -> Object:
        drivers = {
            name: None if devices is None else [asdict(one) for one in devices]
            for name, devices in self.drivers.items()
        }
        return {
            "uid": self.uid,
            "namespace": self.namespace,
            "name": self.name,
            "allocation": self.allocation,
            "pods": sorted(self.pods),
            "drivers": drivers,
        }

    @classmethod
    def from_object(cls, obj: Object) -> "Prepared":
        """Raises KeyError, TypeError, AttributeError for what is no such thing."""
        drivers = {
            name: None if devices is None else tuple(Device(tuple(d["requests"]), tuple(d["cdi"])) for d in devices)
            for name, devices in obj["drivers"].items()
        }
        return cls(obj["uid"], obj["namespace"], obj["name"], obj["allocation"], set(obj["pods"]), drivers)


def needed(pod: Object) -> list[PodClaim]:
    """The claims of a pod that some container uses. Raises DevicesFailed when one has not been made."""
    used = {entry["name"] for spec in pods.all_containers(pod) for entry in _entries(spec)}
    found = [one for one in resource_claims.of_pod(pod) if one.name in used]
    for one in found:
        if not one.claim:
            full = f"{pods.namespace(pod)}/{pods.name(pod)}"
            raise DevicesFailed(f'prepare dynamic resources: pod "{full}": ResourceClaim not created yet')
    return found


def _entries(spec: Object) -> Iterable[Object]:
    return (spec.get("resources") or {}).get("claims") or ()


def drivers_of(pod: Object, one: PodClaim, claim: Object) -> set[str]:
    """The drivers of a claim's devices. Raises DevicesFailed for a claim that the pod may not use."""
    meta, uid = claim["metadata"], pods.uid(pod)
    problem = resource_claims.not_owned(claim, pods.namespace(pod), pods.name(pod), uid) if one.owned else ""
    allocation = resource_claims.allocation(claim)
    if not problem and allocation is None:
        problem = f"ResourceClaim {meta['name']} not allocated"
    if not problem and not resource_claims.is_reserved_for(claim, uid):
        problem = f"pod {pods.name(pod)} ({uid}) is not allowed to use ResourceClaim {meta['name']} ({meta['uid']})"
    if problem:
        raise DevicesFailed(f"prepare dynamic resources: {problem}")
    return {result["driver"] for result in ((allocation or {}).get("devices") or {}).get("results") or ()}


def digest(claim: Object) -> str:
    """Tells the devices that a claim has now, and their configuration, from those that it had before."""
    devices = (resource_claims.allocation(claim) or {}).get("devices")
    return blake2b(orjson.dumps(devices, option=orjson.OPT_SORT_KEYS), digest_size=16).hexdigest()


def cdi_names(pod: Object, spec: Object, prepared: Mapping[str, Prepared]) -> list[str]:
    """The CDI devices of a container. `prepared`: the pod's claims, by the names of the objects."""
    by_name = {one.name: one.claim for one in resource_claims.of_pod(pod)}
    found: dict[str, None] = {}
    for entry in _entries(spec):
        claim = prepared.get(by_name.get(entry["name"], ""))
        for device in _devices(claim) if claim is not None else ():
            if _concerns(device, entry.get("request") or ""):
                found |= dict.fromkeys(device.cdi)
    return list(found)


def _devices(claim: Prepared) -> Iterator[Device]:
    for name in sorted(claim.drivers):
        yield from claim.drivers[name] or ()


def _concerns(device: Device, request: str) -> bool:
    """`request`: as a container names it; devices may be of one of its alternatives ("request/subrequest")."""
    return not request or not device.requests or any(one.partition("/")[0] == request for one in device.requests)


def parse(obj: Any) -> list[Prepared]:
    """What the file says. Raises ValueError for one that is damaged."""
    try:
        return [Prepared.from_object(one) for one in obj["claims"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no record of prepared claims: {error!r}") from None
