"""What objects use up of ResourceQuotas: for the apiserver, which charges, and the controller, which counts again.

Vocabulary: a **name** is what a quota limits ("pods", "requests.cpu", "count/jobs.batch"); the **usage** of an object
says how much of which names it takes; a quota **covers** an object when it limits a name of the object's kind and all
of its scopes match the object.

    pods       pods, cpu, memory, requests.*, limits.*, hugepages-*, requests.<extended resource>
    claims     persistentvolumeclaims, requests.storage, <class>.storageclass.storage.k8s.io/{both of these}
    services   services, services.nodeports, services.loadbalancers
    devices    <class>.deviceclass.resource.k8s.io/devices of ResourceClaims
    all kinds  count/<resource>[.<group>]; some kinds of the core group by their resource's own name too

Pods that have ended, or should have after their grace period, use nothing but count/pods.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import Any

from raykube.api import pod_resources, quantity
from raykube.api.node_selectors import expression_matches
from raykube.api.pod_resources import HUGE_PAGES, Amounts
from raykube.api.qos import qos_class
from raykube.base.clock import parse_rfc3339

Object = dict[str, Any]
Kind = tuple[str, str]  # (group, plural)

PODS: Kind = ("", "pods")
CLAIMS: Kind = ("", "persistentvolumeclaims")
SERVICES: Kind = ("", "services")
RESOURCE_CLAIMS: Kind = ("resource.k8s.io", "resourceclaims")
IGNORED: frozenset[Kind] = frozenset((("", "events"), ("events.k8s.io", "events")))

_BY_OWN_NAME = frozenset(("configmaps", "resourcequotas", "replicationcontrollers", "secrets"))
_REQUESTS, _LIMITS = "requests.", "limits."
_COMPUTE = ("cpu", "memory", "ephemeral-storage")
_OF_PODS = frozenset(
    ("count/pods", "pods", *_COMPUTE, *(_REQUESTS + each for each in _COMPUTE), *(_LIMITS + each for each in _COMPUTE))
)
_TO_BE_SPECIFIED = frozenset(("cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"))
_OF_CLAIMS = frozenset(("count/persistentvolumeclaims", "persistentvolumeclaims", "requests.storage"))
_OF_CLASS = ".storageclass.storage.k8s.io/"
_OF_SERVICES = frozenset(("count/services", "services", "services.nodeports", "services.loadbalancers"))
_DEVICES = ".deviceclass.resource.k8s.io/devices"
_ALL_DEVICES = 32  # what a request for all devices of a class is taken for
_ANNOTATED_CLASS = "volume.beta.kubernetes.io/storage-class"


def count_name(kind: Kind) -> str:
    """The name of the number of objects of a kind."""
    group, plural = kind
    return f"count/{plural}.{group}" if group else f"count/{plural}"


def tracked(names: Iterable[str], kind: Kind) -> list[str]:
    """Which of a quota's names objects of `kind` can use."""
    return [name for name in names if _is_of(name, kind)]


def _is_of(name: str, kind: Kind) -> bool:
    if kind == PODS:
        huge = name.startswith((HUGE_PAGES, _REQUESTS + HUGE_PAGES))
        return name in _OF_PODS or huge or (name.startswith(_REQUESTS) and _is_extended(name))
    if kind == CLAIMS:
        return name in _OF_CLAIMS or name.partition(_OF_CLASS)[2] in ("persistentvolumeclaims", "requests.storage")
    if kind == SERVICES:
        return name in _OF_SERVICES
    if kind == RESOURCE_CLAIMS and name.endswith(_DEVICES):
        return True
    return name == count_name(kind) or (not kind[0] and name == kind[1] and name in _BY_OWN_NAME)


def _is_extended(name: str) -> bool:
    return "/" in name and "kubernetes.io/" not in name


# -- usage


def usage(kind: Kind, obj: Object, now: float = 0.0) -> Amounts:
    """What one object uses of all names that there are for its kind."""
    found = {count_name(kind): "1"}
    if kind == PODS:
        found |= _pod_usage(obj, now)
    elif kind == CLAIMS:
        found |= _claim_usage(obj)
    elif kind == SERVICES:
        found |= _service_usage(obj.get("spec") or {})
    elif kind == RESOURCE_CLAIMS:
        found |= _device_usage(obj.get("spec") or {})
    elif not kind[0] and kind[1] in _BY_OWN_NAME:
        found[kind[1]] = "1"
    return found


def ends_at(pod: Object) -> float | None:
    """When a pod that is being deleted uses nothing any longer, whether its node answers or not."""
    meta = pod["metadata"]
    moment, grace_s = meta.get("deletionTimestamp"), meta.get("deletionGracePeriodSeconds")
    return parse_rfc3339(moment) + int(grace_s) if moment and grace_s is not None else None


def _pod_usage(pod: Object, now: float) -> Amounts:
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return {}
    end = ends_at(pod)
    if end is not None and now > end:
        return {}
    spec = pod.get("spec") or {}
    return {"pods": "1", **_computed(pod_resources.pod_requests(spec), pod_resources.pod_limits(spec))}


def _computed(requests: Mapping[str, Any], limits: Mapping[str, Any]) -> Amounts:
    found: Amounts = {}
    for name, text in requests.items():
        amount = quantity.canonical(text)
        if name in _COMPUTE or name.startswith(HUGE_PAGES):
            found[name] = found[_REQUESTS + name] = amount
        elif _is_extended(name):
            found[_REQUESTS + name] = amount
    for name, text in limits.items():
        if name in _COMPUTE:
            found[_LIMITS + name] = quantity.canonical(text)
    return found


def _claim_usage(claim: Object) -> Amounts:
    spec = claim.get("spec") or {}
    found = {"persistentvolumeclaims": "1"}
    asked = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    allocated = ((claim.get("status") or {}).get("allocatedResources") or {}).get("storage")
    if allocated is not None and (asked is None or quantity.parse(allocated) > quantity.parse(asked)):
        asked = allocated  # an expansion that was given up still holds what it got
    if asked is not None:
        found["requests.storage"] = quantity.format_quantity(quantity.value(asked), quantity.style_of(asked))
    annotations = claim["metadata"].get("annotations") or {}
    name = annotations.get(_ANNOTATED_CLASS) or spec.get("storageClassName")
    return found | {f"{name}{_OF_CLASS}{each}": amount for each, amount in found.items()} if name else found


def _service_usage(spec: Object) -> Amounts:
    ports = spec.get("ports") or []
    kind, node_ports = spec.get("type"), 0
    if kind == "NodePort":
        node_ports = len(ports)
    elif kind == "LoadBalancer":
        wanted = spec.get("allocateLoadBalancerNodePorts") is not False
        node_ports = len(ports) if wanted else sum(1 for port in ports if port.get("nodePort"))
    balancers = "1" if kind == "LoadBalancer" else "0"
    return {"services": "1", "services.nodeports": str(node_ports), "services.loadbalancers": balancers}


def _device_usage(spec: Object) -> Amounts:
    counts: dict[str, int] = {}
    for request in (spec.get("devices") or {}).get("requests") or ():
        most: dict[str, int] = {}
        for each in [request["exactly"]] if request.get("exactly") else request.get("firstAvailable") or ():
            count = _ALL_DEVICES if each.get("allocationMode") == "All" else int(each.get("count") or 1)
            name = each.get("deviceClassName", "")
            most[name] = max(most.get(name, 0), count)
        for name, count in most.items():
            counts[name] = counts.get(name, 0) + count
    return {f"{name}{_DEVICES}": str(count) for name, count in counts.items()}


def unspecified(names: Iterable[str], kind: Kind, obj: Object) -> str:
    """What the containers of a pod leave unsaid though a quota limits it: "must specify ...", or ""."""
    wanted = _TO_BE_SPECIFIED.intersection(names) if kind == PODS else None
    spec = obj.get("spec") or {}
    if not wanted or spec.get("resources"):
        return ""
    missing: dict[str, set[str]] = {}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        said = _computed(resources.get("requests") or {}, resources.get("limits") or {})
        for name in wanted - said.keys():
            missing.setdefault(name, set()).add(container.get("name", ""))
    parts = [f"{name} for: {','.join(sorted(missing[name]))}" for name in sorted(missing)]
    return f"must specify {'; '.join(parts)}" if parts else ""


# -- scopes


def in_scope(spec: Object, kind: Kind, obj: Object) -> bool:
    """Whether an object matches all scopes of a quota with this spec."""
    scopes = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    scopes += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(_matches(scope, kind, obj) for scope in scopes)


def _matches(scope: Object, kind: Kind, obj: Object) -> bool:
    name, spec = scope.get("scopeName", ""), obj.get("spec") or {}
    if kind == CLAIMS and name == "VolumeAttributesClass":
        status = obj.get("status") or {}
        target = (status.get("modifyVolumeStatus") or {}).get("targetVolumeAttributesClassName")
        names = (spec.get("volumeAttributesClassName"), status.get("currentVolumeAttributesClassName"), target)
        return any(_selects(scope, each) for each in {each or "" for each in names if each} or {""})
    if kind != PODS:
        return False
    match name:
        case "Terminating":
            return _has_deadline(spec)
        case "NotTerminating":
            return not _has_deadline(spec)
        case "BestEffort":
            return qos_class(spec) == "BestEffort"
        case "NotBestEffort":
            return qos_class(spec) != "BestEffort"
        case "PriorityClass":
            return _selects(scope, spec.get("priorityClassName") or "")
        case "CrossNamespacePodAffinity":
            return _looks_elsewhere(spec.get("affinity") or {})
    return False


def _selects(scope: Object, value: str) -> bool:
    """Whether a scope's operator and values name `value`; "" is none."""
    values = {scope.get("scopeName", ""): value} if value else {}
    expression = {**scope, "key": scope.get("scopeName", "")}
    return expression_matches(expression, values)


def _has_deadline(spec: Object) -> bool:
    deadline_s = spec.get("activeDeadlineSeconds")
    return deadline_s is not None and int(deadline_s) >= 0


def _looks_elsewhere(affinity: Object) -> bool:
    """Whether a pod wants to be near, or away from, pods of other namespaces."""
    for field in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(field) or {}
        preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms = [*(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())]
        terms += [each.get("podAffinityTerm") or {} for each in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False


# -- sums


def total(usages: Iterable[Mapping[str, str]], names: Iterable[str]) -> Amounts:
    """The sum of what `usages` say of `names`, which are all in it. A sum is written like the first that is not 0."""
    sums: dict[str, int | Fraction] = dict.fromkeys(names, 0)
    styles: dict[str, str] = {}
    for each in usages:
        for name, text in each.items():
            if name in sums and text != "0":
                sums[name] += quantity.parse(text)
                styles.setdefault(name, quantity.style_of(text))
    return {name: quantity.format_quantity(number, styles.get(name, quantity.DECIMAL)) for name, number in sums.items()}
