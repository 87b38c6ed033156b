"""How DNS servers become the endpoints of Service kube-system/kube-dns. Pure.

The Service has no selector: every server writes an EndpointSlice of its own (one per address family), which names its
machine, and for whose clients it is meant first. A server that stops says so and takes its slice away. One that dies
with its machine cannot: the elected server marks the slices of nodes that are not ready, and removes those of nodes
that are gone. A server that lives, and sees its slice marked or gone, writes it again: at once, then ever later, for
its Node may say for long that it does not (its kubelet stands still, somebody deleted the Node).
"""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from raykube.base.backoff import Backoff

Object = dict[str, Any]

NAMESPACE = "kube-system"
SERVICE = "kube-dns"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "dns.raykube.io"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_NAME_MAX = 253
REPAIR = Backoff(initial_s=0.5, max_s=10.0)
CALM_S = 60.0  # a slice that stayed as written for so long is written at once when somebody undoes it


def service(cluster_ips: list[str], metrics_port: int) -> Object:
    """The Service as upstream's manifest has it, but for the selector."""
    versions = list(dict.fromkeys(ip_address(ip).version for ip in cluster_ips))
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    annotations = {}
    if metrics_port:
        ports.append({"name": "metrics", "port": metrics_port, "protocol": "TCP"})
        annotations = {"prometheus.io/port": str(metrics_port), "prometheus.io/scrape": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": SERVICE,
            "namespace": NAMESPACE,
            "annotations": annotations,
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/cluster-service": "true",
                "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ips[0],
            "clusterIPs": cluster_ips,
            "ipFamilies": [f"IPv{version}" for version in versions],
            "ipFamilyPolicy": "SingleStack" if len(versions) == 1 else "RequireDualStack",
            "ports": ports,
        },
    }


def own_slices(
    node: str, addresses: Iterable[str], port: int, metrics_port: int, owner: Object | None, *, stopping: bool = False
) -> list[Object]:
    """The slices of one server; `owner` is the Service, which takes them with it."""
    found = []
    families: dict[str, list[str]] = {}
    for address in addresses:
        ip = ip_address(address)
        if not ip.is_unspecified:
            families.setdefault(f"IPv{ip.version}", []).append(address)
    conditions = {"ready": not stopping, "serving": True, "terminating": stopping}
    ports = [
        {"name": "dns", "port": port, "protocol": "UDP"},
        {"name": "dns-tcp", "port": port, "protocol": "TCP"},
    ]
    if metrics_port:
        ports.append({"name": "metrics", "port": metrics_port, "protocol": "TCP"})
    for family, own in families.items():
        metadata: Object = {
            "name": f"{SERVICE}-{node}"[: _NAME_MAX - 5].rstrip("-.") + f"-{family.lower()}",
            "namespace": NAMESPACE,
            "labels": {SERVICE_NAME_LABEL: SERVICE, MANAGED_BY_LABEL: MANAGER, "k8s-app": "kube-dns"},
        }
        if owner is not None:
            metadata["ownerReferences"] = [
                {"apiVersion": "v1", "kind": "Service", "name": SERVICE, "uid": owner["metadata"]["uid"]}
            ]
        found.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": metadata,
                "addressType": family,
                "endpoints": [
                    {
                        "addresses": [address],
                        "conditions": conditions,
                        "nodeName": node,
                        "hints": {"forNodes": [{"name": node}]},
                    }
                    for address in own
                ],
                "ports": ports,
            }
        )
    return found


def change(wanted: Object) -> Object:
    """The merge patch that makes a slice what it should be."""
    metadata = {key: wanted["metadata"][key] for key in ("labels", "ownerReferences") if key in wanted["metadata"]}
    return {"metadata": metadata, "endpoints": wanted["endpoints"], "ports": wanted["ports"]}


def is_foreign(present: Object) -> bool:
    """Whether the Service kube-dns is another DNS' (CoreDNS as pods): it selects them, and ours stays out of it."""
    return bool((present.get("spec") or {}).get("selector"))


def differs(wanted: Object, present: Object) -> bool:
    """Whether the slice in the cluster must be written again. What others added to its metadata stays."""
    if any(wanted[part] != _plain(present.get(part)) for part in ("addressType", "endpoints", "ports")):
        return True
    there, want = present["metadata"], wanted["metadata"]
    labels = there.get("labels") or {}
    if any(labels.get(name) != value for name, value in want["labels"].items()):
        return True
    return bool(there.get("ownerReferences") != want.get("ownerReferences"))


def _plain(value: Any) -> Any:
    """Without fields that are null or empty, which servers may add."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item not in (None, [], {})}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def is_ours(obj: Object) -> bool:
    """Whether a slice is a DNS server's of this cluster."""
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    return (
        metadata.get("namespace") == NAMESPACE
        and labels.get(MANAGED_BY_LABEL) == MANAGER
        and labels.get(SERVICE_NAME_LABEL) == SERVICE
    )


def node_of(obj: Object) -> str:
    """The machine whose server wrote the slice."""
    return next((str(endpoint.get("nodeName") or "") for endpoint in obj.get("endpoints") or ()), "")


def node_ready(node: Object) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def stale(slices: Iterable[Object], ready: Mapping[str, bool]) -> tuple[list[Object], list[Object]]:
    """(to mark as not ready, to remove) of the servers' slices; `ready` tells of each node that there is."""
    mark, remove = [], []
    for each in slices:
        node = node_of(each)
        if node not in ready:
            remove.append(each)
        elif not ready[node] and any((e.get("conditions") or {}).get("ready") is not False for e in each["endpoints"]):
            mark.append(each)
    return mark, remove


def marked(obj: Object) -> Object:
    """The same slice, nobody to be sent there."""
    conditions = {"ready": False, "serving": False, "terminating": False}
    return {**obj, "endpoints": [{**endpoint, "conditions": conditions} for endpoint in obj["endpoints"]]}


class Repairs:
    """When slices that somebody undid are written again: two who disagree would otherwise write as fast as they can."""

    def __init__(self) -> None:
        self._written: dict[str, tuple[Object, float, int]] = {}  # by name: what, when, how often in a row

    def wait_s(self, wanted: Object, now: float) -> float:
        """How long to leave the slice as it is; 0 when it may be written."""
        known = self._written.get(wanted["metadata"]["name"])
        if known is None or known[0] != wanted or known[2] < 2:
            return 0.0
        return max(0.0, known[1] + REPAIR.delay_s(known[2] - 1) - now)

    def on_written(self, wanted: Object, now: float) -> None:
        name = wanted["metadata"]["name"]
        known = self._written.get(name)
        again = known is not None and known[0] == wanted and now - known[1] < CALM_S
        self._written[name] = (wanted, now, known[2] + 1 if known is not None and again else 1)
