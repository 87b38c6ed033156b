"""Quality of service class, and what a pod asks for in sum."""

from fractions import Fraction

from raykube.api import qos, quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object


def _resources(spec: Object, kind: str) -> Object:
    return (spec.get("resources") or {}).get(kind) or {}


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort."""
    return qos.qos_class(pod["spec"])


Amounts = dict[str, int | Fraction]


def _request(spec: Object) -> Amounts:
    wanted = _resources(spec, "limits") | _resources(spec, "requests")
    return {name: quantity.parse(text) for name, text in wanted.items()}


def _add(left: Amounts, right: Amounts) -> Amounts:
    return {name: left.get(name, 0) + right.get(name, 0) for name in left.keys() | right.keys()}


def _max(left: Amounts, right: Amounts) -> Amounts:
    return {name: max(left.get(name, 0), right.get(name, 0)) for name in left.keys() | right.keys()}


def pod_requests(pod: Object) -> Amounts:
    """What the pod needs at its peak: its containers and sidecars together, or one init container with the sidecars
    that were started before it; plus the overhead of its runtime."""
    total: Amounts = {}
    for spec in pods.containers(pod):
        total = _add(total, _request(spec))
    sidecars: Amounts = {}
    peak: Amounts = {}
    for spec in pods.init_containers(pod):
        if pods.is_sidecar(spec):
            sidecars = _add(sidecars, _request(spec))
            peak = _max(peak, sidecars)
        else:
            peak = _max(peak, _add(sidecars, _request(spec)))
    total = _max(_add(total, sidecars), peak)
    total |= _request(pod["spec"])  # said of the pod as a whole
    return _add(total, pod_overhead(pod))


def pod_overhead(pod: Object) -> Amounts:
    """What the pod's runtime needs beside its containers."""
    return {name: quantity.parse(text) for name, text in (pod["spec"].get("overhead") or {}).items()}


def pod_limits(pod: Object) -> Amounts:
    """What the pod can use at most, of those resources that all of its containers are limited in."""
    limits: list[Amounts] = []
    peak: Amounts = {}
    for spec in pods.all_containers(pod):
        own = {name: quantity.parse(text) for name, text in _resources(spec, "limits").items()}
        own = {name: amount for name, amount in own.items() if amount}
        limits.append(own)
    named = set.intersection(*(set(own) for own in limits)) if limits else set()
    total: Amounts = {}
    sidecars: Amounts = {}
    inits = len(pods.init_containers(pod))
    for index, (spec, own) in enumerate(zip(pods.all_containers(pod), limits, strict=True)):
        if index >= inits:
            total = _add(total, own)
        elif pods.is_sidecar(spec):
            sidecars = _add(sidecars, own)
            peak = _max(peak, sidecars)
        else:
            peak = _max(peak, _add(sidecars, own))
    total = _max(_add(total, sidecars), peak)
    found = {name: total[name] for name in named}
    found |= {name: quantity.parse(text) for name, text in _resources(pod["spec"], "limits").items()}
    overhead = pod_overhead(pod)
    return {name: amount + overhead.get(name, 0) for name, amount in found.items()}
