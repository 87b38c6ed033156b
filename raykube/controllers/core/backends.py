"""Which pods stand behind a Service, on which ports: what Endpoints and EndpointSlices are made of."""

from collections.abc import Iterable
from typing import Any

from raykube.controllers.core import aspects, claims, indexes, kinds, pods
from raykube.controllers.core.plan import Obj, View, key_of

HEADLESS_LABEL = "service.kubernetes.io/headless"
ZONE_LABEL = "topology.kubernetes.io/zone"


# Of a pod, all that endpoints depend on: a change of anything else concerns no Service.
ASPECTS = (
    aspects.LABELS | aspects.DELETION | aspects.NODE | aspects.SPEC | aspects.PHASE | aspects.READY | aspects.ADDRESS
)


def selector_of(service: Obj) -> dict[str, str]:
    """`spec.selector` of a Service whose endpoints are ours to find; {} for all others."""
    spec = service.get("spec") or {}
    return {} if spec.get("type") == "ExternalName" else spec.get("selector") or {}


def is_headless(service: Obj) -> bool:
    """Whether the Service has no address of its own."""
    return bool((service.get("spec") or {}).get("clusterIP") == "None")


def families_of(service: Obj) -> list[str]:
    """The address families of a Service: "IPv4", "IPv6" or both."""
    return list((service.get("spec") or {}).get("ipFamilies") or ["IPv4"])


def address_of(pod: Obj, family: str) -> str:
    """The pod's address of a family; "" when it has none."""
    status = pod.get("status") or {}
    candidates = [each.get("ip") for each in status.get("podIPs") or ()] or [status.get("podIP")]
    for candidate in candidates:
        if candidate and (":" in candidate) == (family == "IPv6"):
            return str(candidate)
    return ""


def pods_of(view: View, service: Obj) -> list[Obj]:
    """The pods that a Service selects and that have not ended, by name."""
    namespace = service["metadata"].get("namespace", "")
    selector = {"matchLabels": selector_of(service)}
    found = claims.selected(view, kinds.PODS, namespace, selector)
    return sorted((pod for pod in found if not pods.is_terminal(pod)), key=lambda pod: str(pod["metadata"]["name"]))


def ports_of(service: Obj, pod: Obj) -> list[Obj]:
    """The Service's ports as numbers on this pod; a named port that the pod does not have is left out."""
    ports = []
    for port in (service.get("spec") or {}).get("ports") or ():
        protocol = port.get("protocol", "TCP")
        number = _resolve(port.get("targetPort") or port["port"], protocol, pod)
        if number is None:
            continue
        entry: Obj = {"name": port.get("name", ""), "port": number, "protocol": protocol}
        if port.get("appProtocol"):
            entry["appProtocol"] = port["appProtocol"]
        ports.append(entry)
    return ports


def _resolve(target: Any, protocol: str, pod: Obj) -> int | None:
    if isinstance(target, int):
        return target
    spec = pod.get("spec") or {}
    sidecars = [each for each in spec.get("initContainers") or () if each.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or ()), *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == target and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def hostname_of(service: Obj, pod: Obj) -> str:
    """The name that DNS gives the pod within the Service; "" when it asks for none."""
    spec, meta = pod.get("spec") or {}, service["metadata"]
    return str(spec.get("hostname") or "") if spec.get("subdomain") == meta["name"] else ""


def reference_to(pod: Obj) -> Obj:
    """The `targetRef` of an endpoint."""
    meta = pod["metadata"]
    return {"kind": "Pod", "namespace": meta.get("namespace", ""), "name": meta["name"], "uid": meta.get("uid", "")}


def services_of(view: View, old: Obj | None, new: Obj | None) -> set[str]:
    """The keys of the Services that a pod's change in one of ASPECTS concerns: none while it has no address."""
    states = [pod for pod in (old, new) if pod is not None and _has_address(pod)]
    if len(states) == 2 and claims.labels_of(states[0]) == claims.labels_of(states[1]):
        del states[0]
    return {key for pod in states for key in _selecting(view, pod)}


def _has_address(pod: Obj) -> bool:
    status = pod.get("status") or {}
    return bool(status.get("podIP") or status.get("podIPs"))


def _selecting(view: View, pod: Obj) -> Iterable[str]:
    namespace, labels = pod["metadata"].get("namespace", ""), claims.labels_of(pod)
    for name, value in labels.items():
        for service in view.by_index(kinds.SERVICES, "selector", indexes.label_value(namespace, name, value)):
            if all(labels.get(key) == wanted for key, wanted in selector_of(service).items()):
                yield key_of(service)
