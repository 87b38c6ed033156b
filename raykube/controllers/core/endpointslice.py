"""endpointslice-controller: the pods behind each Service, in slices of at most 100 endpoints.

A Service's slices are grouped by address family and by ports (a named port may be another number on another pod). A
change of one endpoint rewrites one slice: endpoints stay in the slice they are in, new ones fill slices that change
anyway, then others with room, then new slices; empty slices go. A Service without endpoints has one slice that says so.
"""

from collections.abc import Iterable

import orjson

from raykube.controllers.core import backends, claims, indexes, kinds, pods
from raykube.controllers.core.backing import Backing
from raykube.controllers.core.patches import uid_of
from raykube.controllers.core.plan import NOTHING, Obj, Plan, View, Write, key_of, split_key
from raykube.controllers.core.slice_packing import Entry, Packing

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
RESERVED = frozenset({indexes.SERVICE_NAME_LABEL, MANAGED_BY, backends.HEADLESS_LABEL})


class EndpointSliceController:
    """See the module's docstring."""

    name = "endpointslice-controller"
    resources = (kinds.SERVICES, kinds.PODS, kinds.ENDPOINT_SLICES, kinds.NODES)
    looks_at = backends.ASPECTS

    def __init__(self, endpoints_max: int = 100) -> None:
        self.endpoints_max = endpoints_max
        self._fronts: dict[str, _Front] = {}  # by key

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A Service's own key; for pods, slices and nodes those of the Services they belong to."""
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.PODS:
            keys = backends.services_of(view, old, new)
            self._mark(keys, changed)
            return keys
        if resource == kinds.SERVICES:
            return (key_of(changed),)
        if resource == kinds.NODES:
            return self._observe_node(view, old, new)
        return self._observe_slices([each for each in (old, new) if each is not None])

    def _observe_slices(self, states: Iterable[Obj]) -> set[str]:
        """The Services that a slice belonged to before and after its change."""
        keys = set()
        for state in states:
            labels, meta = claims.labels_of(state), state["metadata"]
            if labels.get(MANAGED_BY) == MANAGER and indexes.SERVICE_NAME_LABEL in labels:
                key = f"{meta.get('namespace', '')}/{labels[indexes.SERVICE_NAME_LABEL]}"
                keys.add(key)
                if front := self._fronts.get(key):
                    front.slices[meta["name"]] = None
        return keys

    def _observe_node(self, view: View, old: Obj | None, new: Obj | None) -> set[str]:
        """The Services with pods on a node whose zone changed."""
        found: set[str] = set()
        if new is None or _zone(old) == _zone(new):
            return found
        for pod in view.by_index(kinds.PODS, "node", new["metadata"]["name"]):
            keys = backends.services_of(view, None, pod)
            self._mark(keys, pod)
            found |= keys
        return found

    def _mark(self, keys: Iterable[str], pod: Obj) -> None:
        for key in keys:
            if front := self._fronts.get(key):
                front.backing.mark(pod["metadata"]["name"])

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The smallest set of writes that makes the slices say what the pods are."""
        service = view.get(kinds.SERVICES, *split_key(key))
        if service is None or service["metadata"].get("deletionTimestamp") or not backends.selector_of(service):
            self._fronts.pop(key, None)
            return NOTHING
        front = self._fronts.get(key)
        if front is None or not front.backing.is_for(service):
            front = self._fronts[key] = _Front(view, key, service, self.endpoints_max)
        return Plan(front.writes(view))


def _zone(node: Obj | None) -> str | None:
    return claims.labels_of(node).get(backends.ZONE_LABEL) if node else None


class _Front:
    """What is remembered of one state of a Service. `slices`: the names of those that have changed."""

    def __init__(self, view: View, key: str, service: Obj, endpoints_max: int) -> None:
        self.backing: Backing[Entry] = Backing(view, service, _entry)
        self._packing = Packing(service, _labels(service), backends.families_of(service), endpoints_max)
        self._namespace, self._name = split_key(key)
        found = view.by_index(kinds.ENDPOINT_SLICES, "service", key)
        self.slices: dict[str, None] = dict.fromkeys(sorted(str(each["metadata"]["name"]) for each in found))

    def writes(self, view: View) -> list[Write]:
        for _, before, after in self.backing.refresh(view):
            self._packing.desire(before, after)
        for name in list(self.slices):
            stored = view.get(kinds.ENDPOINT_SLICES, self._namespace, name)
            self._packing.take_in(name, stored if stored is not None and self._has(stored) else None)
            del self.slices[name]
        return self._packing.writes(view)

    def _has(self, stored: Obj) -> bool:
        labels = claims.labels_of(stored)
        mine = labels.get(MANAGED_BY) == MANAGER and labels.get(indexes.SERVICE_NAME_LABEL) == self._name
        return mine and not stored["metadata"].get("deletionTimestamp")


def _entry(view: View, service: Obj, pod: Obj) -> Entry | None:
    """The endpoints of a pod, one for each family of the Service; None when it has no address."""
    found = []
    for family in backends.families_of(service):
        address = backends.address_of(pod, family)
        if address:
            group = (family, orjson.dumps(backends.ports_of(service, pod)))
            found.append((group, uid_of(pod), _endpoint(view, service, pod, address)))
    return tuple(found) or None


def _endpoint(view: View, service: Obj, pod: Obj, address: str) -> Obj:
    serving, terminating = pods.is_ready(pod), pods.is_terminating(pod)
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    endpoint: Obj = {
        "addresses": [address],
        "conditions": {
            "ready": publish or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": backends.reference_to(pod),
    }
    node_name = pods.node_name(pod)
    if node_name:
        endpoint["nodeName"] = node_name
        node = view.get(kinds.NODES, "", node_name)
        zone = claims.labels_of(node).get(backends.ZONE_LABEL) if node else None
        if zone:
            endpoint["zone"] = zone
    if hints := _hints(service, endpoint):
        endpoint["hints"] = hints
    hostname = backends.hostname_of(service, pod)
    if hostname:
        endpoint["hostname"] = hostname
    return endpoint


def _hints(service: Obj, endpoint: Obj) -> Obj:
    """Whom a ready endpoint is for, as trafficDistribution says: clients of its own zone, or of its own node first."""
    distribution = service["spec"].get("trafficDistribution")
    if not distribution or not endpoint["conditions"]["ready"]:
        return {}
    hints: Obj = {}
    if zone := endpoint.get("zone"):
        hints["forZones"] = [{"name": zone}]
    if distribution == "PreferSameNode" and (node := endpoint.get("nodeName")):
        hints["forNodes"] = [{"name": node}]
    return hints


def _labels(service: Obj) -> dict[str, str]:
    labels = {name: value for name, value in claims.labels_of(service).items() if name not in RESERVED}
    labels |= {indexes.SERVICE_NAME_LABEL: service["metadata"]["name"], MANAGED_BY: MANAGER}
    if backends.is_headless(service):
        labels[backends.HEADLESS_LABEL] = ""
    return labels
