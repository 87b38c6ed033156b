"""endpointslice-controller: the pods behind each Service, in slices of at most 100 endpoints.

A Service's slices are grouped by address family and by ports (a named port may be another number on another pod). A
change of one endpoint rewrites one slice: endpoints stay in the slice they are in, new ones fill slices that change
anyway, then others with room, then new slices; empty slices go. A Service without endpoints has one slice that says so.
"""

from collections.abc import Iterable, Sequence

import orjson

from raykube.controllers.core import backends, claims, indexes, kinds, pods
from raykube.controllers.core.names import derived_names
from raykube.controllers.core.patches import create_write, delete_write, merge_diff, patch_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Draft, Obj, Plan, View, Write, key_of, split_key

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
RESERVED = frozenset({indexes.SERVICE_NAME_LABEL, MANAGED_BY, backends.HEADLESS_LABEL})
Group = tuple[str, bytes]  # address family, ports as JSON


class EndpointSliceController:
    """See the module's docstring."""

    name = "endpointslice-controller"
    resources = (kinds.SERVICES, kinds.PODS, kinds.ENDPOINT_SLICES, kinds.NODES)

    def __init__(self, endpoints_max: int = 100) -> None:
        self.endpoints_max = endpoints_max

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A Service's own key; for pods, slices and nodes those of the Services they belong to."""
        if resource == kinds.PODS:
            return backends.services_of(view, old, new)
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.SERVICES:
            return (key_of(changed),)
        if resource == kinds.NODES:
            return _services_on(view, old, new)
        labels = claims.labels_of(changed)
        if labels.get(MANAGED_BY) != MANAGER or indexes.SERVICE_NAME_LABEL not in labels:
            return ()
        return (f"{changed['metadata'].get('namespace', '')}/{labels[indexes.SERVICE_NAME_LABEL]}",)

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The smallest set of writes that makes the slices say what the pods are."""
        service = view.get(kinds.SERVICES, *split_key(key))
        if service is None or service["metadata"].get("deletionTimestamp") or not backends.selector_of(service):
            return NOTHING
        desired = _desired(view, service)
        labels = _labels(service)
        present = [
            each
            for each in view.by_index(kinds.ENDPOINT_SLICES, "service", key)
            if claims.labels_of(each).get(MANAGED_BY) == MANAGER and not each["metadata"].get("deletionTimestamp")
        ]
        return _Packing(service, labels, present, self.endpoints_max).plan(desired)


def _services_on(view: View, old: Obj | None, new: Obj | None) -> Iterable[str]:
    """The Services with pods on a node whose zone changed."""

    def zone(node: Obj | None) -> str | None:
        return claims.labels_of(node).get(backends.ZONE_LABEL) if node else None

    changed = new or old
    if changed is None or new is None or zone(old) == zone(new):
        return ()
    found: set[str] = set()
    for pod in view.by_index(kinds.PODS, "node", changed["metadata"]["name"]):
        found |= backends.services_of(view, None, pod)
    return found


def _desired(view: View, service: Obj) -> dict[Group, dict[str, Obj]]:
    """For each group the endpoints by pod uid; a family without any has one group without ports."""
    groups: dict[Group, dict[str, Obj]] = {}
    candidates = backends.pods_of(view, service)
    for family in backends.families_of(service):
        found = False
        for pod in candidates:
            address = backends.address_of(pod, family)
            if not address:
                continue
            ports = backends.ports_of(service, pod)
            group = (family, orjson.dumps(ports))
            groups.setdefault(group, {})[uid_of(pod)] = _endpoint(view, service, pod, address)
            found = True
        if not found:
            groups[family, b"[]"] = {}
    return groups


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


class _Packing:
    """The slices of one Service on their way to hold what is desired."""

    def __init__(self, service: Obj, labels: dict[str, str], present: Sequence[Obj], endpoints_max: int) -> None:
        self.service, self.labels, self.endpoints_max = service, labels, endpoints_max
        self.draft = Draft()
        self.by_group: dict[Group, list[Obj]] = {}
        self.newest = max((version_of(each) for each in present), default=0)
        self.taken = {each["metadata"]["name"] for each in present}
        for each in sorted(present, key=lambda found: str(found["metadata"]["name"])):
            group = (each["addressType"], orjson.dumps([_normal(port) for port in each.get("ports") or ()]))
            self.by_group.setdefault(group, []).append(each)

    def plan(self, desired: dict[Group, dict[str, Obj]]) -> Plan:
        for group, slices in self.by_group.items():
            if group not in desired:
                self.draft.writes.extend(delete_write(kinds.ENDPOINT_SLICES, each) for each in slices)
        for group, endpoints in desired.items():
            self._pack(group, endpoints, self.by_group.get(group, []))
        return self.draft.plan()

    def _pack(self, group: Group, endpoints: dict[str, Obj], slices: Sequence[Obj]) -> None:
        left = dict(endpoints)
        kept: list[tuple[Obj, list[Obj]]] = []
        for each in slices:
            held = []
            for endpoint in each.get("endpoints") or ():
                wanted = left.pop((endpoint.get("targetRef") or {}).get("uid", ""), None)
                if wanted is not None:
                    held.append(wanted)
            kept.append((each, held))
        missing = list(left.values())
        # Slices that change anyway are filled first: that costs no further write.
        for _, held in sorted(kept, key=lambda pair: (pair[0].get("endpoints") or []) == pair[1]):
            room = self.endpoints_max - len(held)
            held.extend(missing[:room])
            del missing[: max(room, 0)]
        full = any(held for _, held in kept)
        placeholder = not full and not missing
        for each, held in kept:
            if held or placeholder:
                placeholder = placeholder and bool(held)
                self._update(each, held)
            else:
                self.draft.writes.append(delete_write(kinds.ENDPOINT_SLICES, each))
        if placeholder:
            self._create(group, [])
        for start in range(0, len(missing), self.endpoints_max):
            self._create(group, missing[start : start + self.endpoints_max])

    def _update(self, each: Obj, held: list[Obj]) -> None:
        body: Obj = {}
        if (each.get("endpoints") or []) != held:
            body["endpoints"] = held
        labels = merge_diff(claims.labels_of(each), self.labels)
        if labels:
            body["metadata"] = {"labels": labels}
        if body:
            self.draft.writes.append(patch_write(kinds.ENDPOINT_SLICES, each, body))

    def _create(self, group: Group, endpoints: list[Obj]) -> None:
        meta = self.service["metadata"]
        state = f"{uid_of(self.service)}/{version_of(self.service)}/{self.newest}"
        name = next(derived_names(f"{meta['name']}-", state, self.taken))
        self.taken.add(name)
        body: Obj = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": meta.get("namespace", ""),
                "labels": self.labels,
                "ownerReferences": [claims.reference_to(self.service, "v1", "Service")],
            },
            "addressType": group[0],
            "endpoints": endpoints,
            "ports": orjson.loads(group[1]),
        }
        write: Write = create_write(kinds.ENDPOINT_SLICES, body)
        self.draft.writes.append(write)


def _normal(port: Obj) -> Obj:
    """A stored port in the form and order in which `backends.ports_of` writes it."""
    entry: Obj = {"name": port.get("name", ""), "port": port.get("port"), "protocol": port.get("protocol", "TCP")}
    if port.get("appProtocol"):
        entry["appProtocol"] = port["appProtocol"]
    return entry
