"""endpointslice-mirroring-controller: Endpoints that a user writes, as EndpointSlices, which are all that proxies read.

A Service without a selector leads where its user says, and many still say it with Endpoints of the Service's name.
Their addresses become slices, one for each address family and set of ports (more where SLICE_MAX are not enough), which
are owned by the Endpoints. Endpoints labelled `skip-mirror`, and those of Services with a selector, have none: somebody
writes their slices already.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from raykube.controllers.core import claims, indexes, kinds
from raykube.controllers.core.endpointslice import MANAGED_BY
from raykube.controllers.core.names import derived_names
from raykube.controllers.core.patches import create_write, delete_write, merge_diff, patch_write, uid_of
from raykube.controllers.core.plan import Event, Obj, Plan, View, Write, key_of, split_key

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"  # annotation: a lock of old clients, and no addresses of anything
NOT_COPIED = ("kubectl.kubernetes.io/last-applied-configuration", "endpoints.kubernetes.io/last-change-trigger-time")
SLICE_MAX = 1000  # endpoints: what the API takes


class EndpointSliceMirroringController:
    """See the module's docstring."""

    name = "endpointslice-mirroring-controller"
    resources = (kinds.ENDPOINTS, kinds.SERVICES, kinds.ENDPOINT_SLICES)

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The key that Endpoints and their Service share; for a mirror that of the Endpoints it is of."""
        states = [state for state in (old, new) if state is not None]
        if resource != kinds.ENDPOINT_SLICES:
            return {key_of(state) for state in states}
        return {
            f"{state['metadata'].get('namespace', '')}/{claims.labels_of(state)[indexes.SERVICE_NAME_LABEL]}"
            for state in states
            if _is_mirror(state)
        }

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """The writes that make the mirrors say what the Endpoints do."""
        endpoints = view.get(kinds.ENDPOINTS, *split_key(key))
        service = view.get(kinds.SERVICES, *split_key(key))
        found = view.by_index(kinds.ENDPOINT_SLICES, "service", key)
        mirrors = {str(each["metadata"]["name"]): each for each in found if _is_mirror(each)}
        writes: list[Write] = []
        if endpoints is not None and service is not None and _is_mirrored(endpoints, service):
            for name, wanted in _desired(view, endpoints, mirrors):
                writes += _difference(endpoints, name, mirrors.pop(name, None), wanted)
        writes += [delete_write(kinds.ENDPOINT_SLICES, mirror) for mirror in mirrors.values()]
        return Plan(writes)


def _is_mirror(state: Obj) -> bool:
    labels = claims.labels_of(state)
    return labels.get(MANAGED_BY) == MANAGER and indexes.SERVICE_NAME_LABEL in labels


def _is_mirrored(endpoints: Obj, service: Obj) -> bool:
    meta = endpoints["metadata"]
    if meta.get("deletionTimestamp") or (service.get("spec") or {}).get("selector"):
        return False
    return claims.labels_of(endpoints).get(SKIP) != "true" and LEADER not in (meta.get("annotations") or {})


def _desired(view: View, endpoints: Obj, mirrors: dict[str, Obj]) -> Iterator[tuple[str, Obj]]:
    """(name, what it is to say) of each mirror. A name is one of a mirror, or free, and stays the same."""
    meta = endpoints["metadata"]
    namespace, taken = meta.get("namespace", ""), set[str]()
    annotations = {name: text for name, text in (meta.get("annotations") or {}).items() if name not in NOT_COPIED}
    labels = {**claims.labels_of(endpoints), indexes.SERVICE_NAME_LABEL: meta["name"], MANAGED_BY: MANAGER}
    for (family, ports), grouped in sorted(_groups(endpoints).items()):
        every = list(grouped.values())
        for start in range(0, len(every), SLICE_MAX):
            state = f"{uid_of(endpoints)}/{family}/{ports.decode()}/{start}"
            names = derived_names(f"{meta['name']}-", state, taken)
            is_free = (
                name for name in names if name in mirrors or view.get(kinds.ENDPOINT_SLICES, namespace, name) is None
            )
            name = next(is_free)
            taken.add(name)
            yield (
                name,
                {
                    "metadata": {"labels": labels, "annotations": annotations},
                    "addressType": family,
                    "endpoints": every[start : start + SLICE_MAX],
                    "ports": orjson.loads(ports),
                },
            )


def _groups(endpoints: Obj) -> dict[tuple[str, bytes], dict[Any, Obj]]:
    """(address family, ports as JSON) → the endpoints, each once: one that is ready in some subset is ready."""
    groups: dict[tuple[str, bytes], dict[Any, Obj]] = {}
    subsets = endpoints.get("subsets") or ()
    for field, ready in (("addresses", True), ("notReadyAddresses", False)):
        for subset in subsets:
            ports = orjson.dumps([_port(port) for port in subset.get("ports") or ()])
            for address in subset.get(field) or ():
                family = "IPv6" if ":" in address["ip"] else "IPv4"
                endpoint: Obj = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
                endpoint |= {name: address[name] for name in ("hostname", "nodeName", "targetRef") if address.get(name)}
                identity = orjson.dumps({**endpoint, "conditions": None}, option=orjson.OPT_SORT_KEYS)
                groups.setdefault((family, ports), {}).setdefault(identity, endpoint)
    return groups


def _port(port: Obj) -> Obj:
    entry: Obj = {"name": port.get("name", ""), "port": port.get("port"), "protocol": port.get("protocol", "TCP")}
    return entry | ({"appProtocol": port["appProtocol"]} if port.get("appProtocol") else {})


def _difference(endpoints: Obj, name: str, mirror: Obj | None, wanted: Obj) -> Iterator[Write]:
    meta = endpoints["metadata"]
    text = f"Error updating Endpoint Slices for Endpoints {meta.get('namespace', '')}/{meta['name']}: {{error}}"
    failed = Event(endpoints, "Warning", "FailedToUpdateEndpointSlices", text)
    if mirror is None:
        owner = claims.reference_to(endpoints, "v1", "Endpoints")
        metadata = {"name": name, "namespace": meta.get("namespace", ""), "ownerReferences": [owner]}
        body = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", **wanted}
        body["metadata"] = metadata | {field: value for field, value in wanted["metadata"].items() if value}
        yield create_write(kinds.ENDPOINT_SLICES, body, failed=failed)
        return
    present = mirror["metadata"]
    changed = {
        field: difference
        for field, value in wanted["metadata"].items()
        if (difference := merge_diff(present.get(field) or {}, value))
    }
    patch: Obj = {"metadata": changed} if changed else {}
    if (mirror.get("endpoints") or []) != wanted["endpoints"]:
        patch["endpoints"] = wanted["endpoints"]
    if [_port(port) for port in mirror.get("ports") or ()] != wanted["ports"]:
        patch["ports"] = wanted["ports"]
    if patch:
        yield patch_write(kinds.ENDPOINT_SLICES, mirror, patch, failed=failed)
