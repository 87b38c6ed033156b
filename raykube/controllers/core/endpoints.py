"""endpoints-controller: the pods behind each Service in one Endpoints object, for clients that read no EndpointSlices.

At most 1,000 addresses; more are cut off, and the annotation `endpoints.kubernetes.io/over-capacity` says so.
"""

from collections.abc import Iterable

import orjson

from raykube.controllers.core import backends, claims, kinds, pods
from raykube.controllers.core.patches import create_write, delete_write, merge_diff, patch_write
from raykube.controllers.core.plan import NOTHING, Obj, Plan, View, key_of, split_key

ADDRESSES_MAX = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"


class EndpointsController:
    """See the module's docstring."""

    name = "endpoints-controller"
    resources = (kinds.SERVICES, kinds.PODS, kinds.ENDPOINTS)

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """A Service's key, which is its Endpoints' too; for a pod the keys of the Services that select it."""
        if resource == kinds.PODS:
            return backends.services_of(view, old, new)
        changed = new or old
        return (key_of(changed),) if changed else ()

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Creates, changes or deletes one Endpoints object."""
        service = view.get(kinds.SERVICES, *split_key(key))
        present = view.get(kinds.ENDPOINTS, *split_key(key))
        if service is None:
            # Those that nobody manages may be somebody's own, made before their Service.
            managed = present is not None and claims.labels_of(present).get(MANAGED_BY) == MANAGER
            return Plan([delete_write(kinds.ENDPOINTS, present)]) if present and managed else NOTHING
        if service["metadata"].get("deletionTimestamp") or not backends.selector_of(service):
            return NOTHING
        subsets, cut = _subsets(view, service)
        labels = {**claims.labels_of(service), MANAGED_BY: MANAGER}
        if backends.is_headless(service):
            labels[backends.HEADLESS_LABEL] = ""
        annotations = {OVER_CAPACITY: "truncated"} if cut else {}
        if present is None:
            return Plan([create_write(kinds.ENDPOINTS, _body(service, labels, annotations, subsets))])
        body = _difference(present, labels, cut, subsets)
        return Plan([patch_write(kinds.ENDPOINTS, present, body)]) if body else NOTHING


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


def _subsets(view: View, service: Obj) -> tuple[list[Obj], bool]:
    """(the subsets: pods with the same ports together; whether addresses were cut off)."""
    family = backends.families_of(service)[0]
    publish = bool(service["spec"].get("publishNotReadyAddresses"))
    groups: dict[bytes, Obj] = {}
    count = 0
    for pod in backends.pods_of(view, service):
        address = backends.address_of(pod, family)
        if not address or (pods.is_terminating(pod) and not publish):
            continue
        ports = backends.ports_of(service, pod)
        if not ports and not (backends.is_headless(service) and not service["spec"].get("ports")):
            continue
        count += 1
        if count > ADDRESSES_MAX:
            return _ordered(groups), True
        subset = groups.setdefault(orjson.dumps(ports), {})
        field = "addresses" if publish or pods.is_ready(pod) else "notReadyAddresses"
        subset.setdefault(field, []).append(_address(service, pod, address))
        if ports:
            subset["ports"] = ports
    return _ordered(groups), False


def _address(service: Obj, pod: Obj, address: str) -> Obj:
    entry: Obj = {"ip": address, "targetRef": backends.reference_to(pod)}
    if pods.node_name(pod):
        entry["nodeName"] = pods.node_name(pod)
    hostname = backends.hostname_of(service, pod)
    if hostname:
        entry["hostname"] = hostname
    return entry


FIELDS = ("addresses", "notReadyAddresses", "ports")


def _ordered(groups: dict[bytes, Obj]) -> list[Obj]:
    subsets: list[Obj] = []
    for ports in sorted(groups):
        subset = groups[ports]
        for field in FIELDS[:2]:
            if field in subset:
                subset[field].sort(key=lambda entry: (entry["ip"], entry["targetRef"]["uid"]))
        subsets.append({field: subset[field] for field in FIELDS if field in subset})
    return subsets
