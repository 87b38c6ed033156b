"""Quality of service class, and what a pod asks for in sum."""

from fractions import Fraction

from raykube.api import quantity
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import Object

COMPUTE = ("cpu", "memory")


def _resources(spec: Object, kind: str) -> Object:
    return (spec.get("resources") or {}).get(kind) or {}


def qos_class(pod: Object) -> str:
    """Guaranteed, Burstable or BestEffort."""
    requests: set[str] = set()
    limits: set[str] = set()
    guaranteed = True
    for spec in pods.all_containers(pod):
        for name in COMPUTE:
            request, limit = _resources(spec, "requests").get(name), _resources(spec, "limits").get(name)
            if request is not None and quantity.parse(request):
                requests.add(name)
            if limit is not None and quantity.parse(limit):
                limits.add(name)
                if request is not None and quantity.parse(request) != quantity.parse(limit):
                    guaranteed = False
            else:
                guaranteed = False
    if not requests and not limits:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


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
    overhead = {name: quantity.parse(text) for name, text in (pod["spec"].get("overhead") or {}).items()}
    return _add(total, overhead)
