"""The live apiservers, out of their Leases, and the Service default/kubernetes that publishes them.

Each apiserver renews Lease kube-system/apiserver-HASH, whose annotations say where it serves. One that is not renewed
for its duration is dead: whoever notices first deletes it.
"""

from dataclasses import dataclass
from hashlib import sha256

from raykube.apiserver.core.strategy import Object
from raykube.base.clock import parse_rfc3339, rfc3339_micro

NAMESPACE = "kube-system"
PREFIX = "apiserver-"
IDENTITY_LABEL = "apiserver.kubernetes.io/identity"
IDENTITY = "kube-apiserver"
GRPC_ANNOTATION = "raykube.io/grpc-address"
HTTPS_ANNOTATION = "raykube.io/https-address"


@dataclass(frozen=True, slots=True)
class Instance:
    """One apiserver: `host:port` of both APIs."""

    name: str
    grpc: str
    https: str

    def lease(self, now: float, duration_s: float, uid: str) -> Object:
        """Its Lease. `uid`: who holds it, new at each start."""
        return {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {
                "name": self.name,
                "namespace": NAMESPACE,
                "labels": {IDENTITY_LABEL: IDENTITY, "kubernetes.io/hostname": split(self.https)[0]},
                "annotations": {GRPC_ANNOTATION: self.grpc, HTTPS_ANNOTATION: self.https},
            },
            "spec": {
                "holderIdentity": f"{self.name}_{uid}",
                "leaseDurationSeconds": max(1, round(duration_s)),
                "renewTime": rfc3339_micro(now),
            },
        }


def instance(grpc: str, https: str) -> Instance:
    """The instance that serves at these addresses."""
    return Instance(PREFIX + sha256(https.encode()).hexdigest()[:26], grpc, https)


def split(address: str) -> tuple[str, int]:
    """`host:port` → (host, port)."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_apiserver(lease: Object) -> bool:
    metadata = lease["metadata"]
    return metadata["name"].startswith(PREFIX) and (metadata.get("labels") or {}).get(IDENTITY_LABEL) == IDENTITY


def expires_at(lease: Object) -> float:
    """When a Lease ends unless it is renewed."""
    spec = lease.get("spec") or {}
    try:
        return parse_rfc3339(spec["renewTime"]) + float(spec.get("leaseDurationSeconds") or 0)
    except (KeyError, ValueError):
        return 0.0


def instance_of(lease: Object) -> Instance | None:
    """The instance that a Lease speaks of; None when it does not say where."""
    annotations = lease["metadata"].get("annotations") or {}
    grpc, https = annotations.get(GRPC_ANNOTATION, ""), annotations.get(HTTPS_ANNOTATION, "")
    return Instance(lease["metadata"]["name"], grpc, https) if https else None


def service(address: str, port: int = 443) -> Object:
    """Service default/kubernetes at the first address of the service network."""
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": address,
            "sessionAffinity": "None",
            "ports": [{"name": "https", "protocol": "TCP", "port": port, "targetPort": 6443}],
        },
    }


def endpoints(instances: list[Instance]) -> Object:
    """Endpoints default/kubernetes; instances of one port share a subset."""
    by_port: dict[int, list[str]] = {}
    for each in instances:
        host, port = split(each.https)
        by_port.setdefault(port, []).append(host)
    return {
        "kind": "Endpoints",
        "apiVersion": "v1",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [
            {
                "addresses": [{"ip": host} for host in sorted(set(hosts))],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }
            for port, hosts in sorted(by_port.items())
        ],
    }


def slices(instances: list[Instance]) -> list[Object]:
    """EndpointSlices default/kubernetes…: one for each port, since a slice's endpoints share theirs."""
    by_port: dict[int, set[str]] = {}
    for each in instances:
        host, port = split(each.https)
        by_port.setdefault(port, set()).add(host)
    found = []
    for index, (port, hosts) in enumerate(sorted(by_port.items())):
        found.append(
            {
                "kind": "EndpointSlice",
                "apiVersion": "discovery.k8s.io/v1",
                "metadata": {
                    "name": "kubernetes" if not index else f"kubernetes-{port}",
                    "namespace": "default",
                    "labels": {"kubernetes.io/service-name": "kubernetes"},
                },
                "addressType": "IPv6" if ":" in next(iter(hosts)) else "IPv4",
                "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in sorted(hosts)],
                "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            }
        )
    return found
