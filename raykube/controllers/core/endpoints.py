"""endpoints-controller: the pods behind each Service in one Endpoints object, for clients that read no EndpointSlices.

At most 1,000 addresses; more are cut off, and the annotation `endpoints.kubernetes.io/over-capacity` says so.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable
from operator import itemgetter

import orjson

from raykube.controllers.core import backends, claims, kinds, pods
from raykube.controllers.core.backing import Backing
from raykube.controllers.core.patches import create_write, delete_write, merge_diff, patch_write, uid_of, version_of
from raykube.controllers.core.plan import NOTHING, Obj, Plan, View, key_of, split_key

ADDRESSES_MAX = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
NO_PORTS = b"[]"


class EndpointsController:
    """See the module's docstring."""

    name = "endpoints-controller"
    resources = (kinds.SERVICES, kinds.PODS, kinds.ENDPOINTS)
    looks_at = backends.ASPECTS

    def __init__(self) -> None:
        self._fronts: dict[str, _Front] = {}  # by key

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A Service's key, which is its Endpoints' too; for a pod the keys of the Services that select it."""
        changed = new or old
        if changed is None:
            return ()
        if resource != kinds.PODS:
            return (key_of(changed),)
        keys = backends.services_of(view, old, new)
        for key in keys:
            if front := self._fronts.get(key):
                front.backing.mark(changed["metadata"]["name"])
        return keys

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Creates, changes or deletes one Endpoints object."""
        service = view.get(kinds.SERVICES, *split_key(key))
        present = view.get(kinds.ENDPOINTS, *split_key(key))
        if service is None or service["metadata"].get("deletionTimestamp") or not backends.selector_of(service):
            self._fronts.pop(key, None)
        if service is None:
            # Those that nobody manages may be somebody's own, made before their Service.
            managed = present is not None and claims.labels_of(present).get(MANAGED_BY) == MANAGER
            return Plan([delete_write(kinds.ENDPOINTS, present)]) if present and managed else NOTHING
        if service["metadata"].get("deletionTimestamp") or not backends.selector_of(service):
            return NOTHING
        front = self._fronts.get(key)
        if front is None or not front.backing.is_for(service):
            front = self._fronts[key] = _Front(view, service)
        if front.is_settled(view, present):
            return NOTHING
        subsets, cut = front.subsets()
        labels = {**claims.labels_of(service), MANAGED_BY: MANAGER}
        if backends.is_headless(service):
            labels[backends.HEADLESS_LABEL] = ""
        annotations = {OVER_CAPACITY: "truncated"} if cut else {}
        if present is None:
            return Plan([create_write(kinds.ENDPOINTS, _body(service, labels, annotations, subsets))])
        body = _difference(present, labels, cut, subsets)
        if body:
            return Plan([patch_write(kinds.ENDPOINTS, present, body)])
        front.settle(present)
        return NOTHING


def _body(service: Obj, labels: dict[str, str], annotations: dict[str, str], subsets: list[Obj]) -> Obj:
    meta = service["metadata"]
    metadata: Obj = {"name": meta["name"], "namespace": meta.get("namespace", ""), "labels": labels}
    if annotations:
        metadata["annotations"] = annotations
    body: Obj = {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}
    if subsets:
        body["subsets"] = subsets
    return body


def _difference(present: Obj, labels: dict[str, str], cut: bool, subsets: list[Obj]) -> Obj:
    body: Obj = {}
    metadata: Obj = {}
    changed = merge_diff(claims.labels_of(present), labels)
    if changed:
        metadata["labels"] = changed
    says_cut = OVER_CAPACITY in (present["metadata"].get("annotations") or {})
    if says_cut != cut:
        metadata["annotations"] = {OVER_CAPACITY: "truncated" if cut else None}
    if metadata:
        body["metadata"] = metadata
    if (present.get("subsets") or []) != subsets:
        body["subsets"] = subsets or None
    return body


Place = tuple[str, str]  # an address goes by its IP, then by the pod's uid
Entry = tuple[bytes, str, Place, Obj]  # of one pod: its ports as JSON, the field that it belongs to, its address


class _Front:
    """What is remembered of one state of a Service: the pods that count by name, since the first ones are listed."""

    def __init__(self, view: View, service: Obj) -> None:
        self.backing: Backing[Entry] = Backing(view, service, _entry)
        self._names: list[str] = []
        self._settled_at = 0  # the version of the Endpoints that say what they should

    def is_settled(self, view: View, present: Obj | None) -> bool:
        """Takes in what has changed of the pods; whether the Endpoints are known to say it."""
        for name, before, after in self.backing.refresh(view):
            place = bisect_left(self._names, name)
            if place <= ADDRESSES_MAX:  # the first one behind those that are listed says whether they are cut off
                self._settled_at = 0
            if before is None:
                insort(self._names, name)
            elif after is None:
                del self._names[place]
        return present is not None and self._settled_at == version_of(present) > 0

    def settle(self, present: Obj) -> None:
        """The Endpoints in this state are what they should be."""
        self._settled_at = version_of(present)

    def subsets(self) -> tuple[list[Obj], bool]:
        """(the subsets: pods with the same ports together; whether addresses were cut off)."""
        groups: dict[tuple[bytes, str], list[tuple[Place, Obj]]] = defaultdict(list)
        for name in self._names[:ADDRESSES_MAX]:
            ports, field, place, address = self.backing.entries[name]
            groups[ports, field].append((place, address))
        subsets: dict[bytes, Obj] = {}
        for ports, field in sorted(groups):  # "addresses" before "notReadyAddresses"
            found = sorted(groups[ports, field], key=itemgetter(0))
            subsets.setdefault(ports, {})[field] = [address for _, address in found]
        for ports, subset in subsets.items():
            if ports != NO_PORTS:
                subset["ports"] = orjson.loads(ports)
        return list(subsets.values()), len(self._names) > ADDRESSES_MAX


def _entry(view: View, service: Obj, pod: Obj) -> Entry | None:
    address = backends.address_of(pod, backends.families_of(service)[0])
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    if not address or (pods.is_terminating(pod) and not publish):
        return None
    ports = backends.ports_of(service, pod)
    if not ports and not (backends.is_headless(service) and not service["spec"].get("ports")):
        return None
    field = "addresses" if publish or pods.is_ready(pod) else "notReadyAddresses"
    return orjson.dumps(ports), field, (address, uid_of(pod)), _address(service, pod, address)


def _address(service: Obj, pod: Obj, address: str) -> Obj:
    entry: Obj = {"ip": address, "targetRef": backends.reference_to(pod)}
    if pods.node_name(pod):
        entry["nodeName"] = pods.node_name(pod)
    hostname = backends.hostname_of(service, pod)
    if hostname:
        entry["hostname"] = hostname
    return entry
