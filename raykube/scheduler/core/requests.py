"""What the containers of a pod ask for, added up. cpu is counted in milli units, everything else in whole units.

A quantity can be as large as 2^63-1, and cpu a thousand times that. What a pod asks for is cut at `AMOUNT_MAX`, what a
node can give just below: whoever asks for that much fits nowhere, and the int64 sums of a node are exact with 32,767
such pods on it.
"""

from typing import Any

from raykube.api.quantity import milli, value

Object = dict[str, Any]

CPU, MEMORY, EPHEMERAL = "cpu", "memory", "ephemeral-storage"
# What a container without requests counts as in scores, so that empty pods spread too (upstream's util/pod_resources).
DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY_BYTES = 200 * 1024 * 1024
AMOUNT_MAX = 2**48  # 256 TiB of memory, 280 billion cpus
PODS_MAX = 2**31 - 1


def amount(name: str, quantity: Any) -> int:
    found = milli(quantity) if name == CPU else value(quantity)
    return max(-AMOUNT_MAX, min(found, AMOUNT_MAX))


def offered(name: str, quantity: Any) -> int:
    """What a node can give of a resource, or how many pods it takes."""
    return min(amount(name, quantity), PODS_MAX if name == "pods" else AMOUNT_MAX - 1)


def pod_requests(spec: Object) -> dict[str, int]:
    """What the pod needs at its worst moment: all containers and side-cars, or one init container and the side-cars
    before it, plus overhead; requests of the pod itself come first (upstream's component-helpers/resource)."""
    total: dict[str, int] = {}
    for container in spec["containers"]:
        _add(total, container_requests(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        own = container_requests(container)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, own)
            _add(total, own)
            moment = dict(sidecars)
        else:
            moment = dict(sidecars)
            _add(moment, own)
        for name, needed in moment.items():
            peak[name] = max(peak.get(name, 0), needed)
    for name, needed in peak.items():
        total[name] = max(total.get(name, 0), needed)
    total |= _pod_level(spec)
    for name, quantity in (spec.get("overhead") or {}).items():
        total[name] = total.get(name, 0) + amount(name, quantity)
    return {name: min(needed, AMOUNT_MAX) for name, needed in total.items()}


def _pod_level(spec: Object) -> dict[str, int]:
    """What the pod itself asks for. Its limit is a request where neither it nor a container has one."""
    resources = spec.get("resources")
    if not resources:
        return {}
    found = {name: amount(name, quantity) for name, quantity in (resources.get("requests") or {}).items()}
    limits = resources.get("limits") or {}
    if limits.keys() - found.keys():
        containers = (*spec["containers"], *(spec.get("initContainers") or ()))
        asked = {name for container in containers for name in container_requests(container)}
        found |= {n: amount(n, quantity) for n, quantity in limits.items() if n not in found and n not in asked}
    return found


def container_requests(container: Object) -> dict[str, int]:
    resources = container.get("resources") or {}
    requests = dict(resources.get("requests") or {})
    for name, quantity in (resources.get("limits") or {}).items():
        requests.setdefault(name, quantity)  # a limit without a request is a request too
    return {name: amount(name, quantity) for name, quantity in requests.items()}


def _add(total: dict[str, int], more: dict[str, int]) -> None:
    for name, needed in more.items():
        total[name] = total.get(name, 0) + needed


def nonzero(spec: Object) -> tuple[int, int]:
    """cpu and memory as scores count them: containers that ask for nothing ask for a little."""
    filled = []
    for container in (*spec["containers"], *(spec.get("initContainers") or ())):
        own = container_requests(container)
        requests = {CPU: f"{own.get(CPU) or DEFAULT_MILLI_CPU}m", MEMORY: own.get(MEMORY) or DEFAULT_MEMORY_BYTES}
        filled.append({"resources": {"requests": requests}, "restartPolicy": container.get("restartPolicy")})
    split = len(spec["containers"])
    parts = {"containers": filled[:split], "initContainers": filled[split:]}
    pod_level = {name: f"{total}m" if name == CPU else str(total) for name, total in _pod_level(spec).items()}
    needed = pod_requests(parts | {"resources": {"requests": pod_level}, "overhead": spec.get("overhead")})
    return needed.get(CPU, 0), needed.get(MEMORY, 0)
