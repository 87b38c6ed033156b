"""What a health-check node port answers, and whether a node is for new traffic at all."""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from raykube.kubeproxy.core.rules import Object, ServiceKey

TO_BE_DELETED_TAINT = "ToBeDeletedByClusterAutoscaler"


def eligible(node: Object) -> bool:
    """Whether load balancers may send new connections to the node: not when it is about to go."""
    taints = (node.get("spec") or {}).get("taints") or ()
    tainted = any(taint.get("key") == TO_BE_DELETED_TAINT for taint in taints)
    return not tainted and not node["metadata"].get("deletionTimestamp")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """The port of a Service, and how many ready endpoints it has on this node."""

    port: int
    local_endpoints: int


def health_check(service: Object, slices: Iterable[Object], node: str) -> HealthCheck | None:
    """What the Service asks for; None when it asks for nothing."""
    spec = service.get("spec") or {}
    port = spec.get("healthCheckNodePort")
    if not port or spec.get("type") != "LoadBalancer" or spec.get("externalTrafficPolicy") != "Local":
        return None
    found = {
        endpoint["addresses"][0]
        for endpoint_slice in slices
        for endpoint in endpoint_slice.get("endpoints") or ()
        if endpoint.get("nodeName") == node
        and endpoint.get("addresses")
        and (endpoint.get("conditions") or {}).get("ready") is not False
    }
    return HealthCheck(port, len(found))


def answer(service: ServiceKey, local_endpoints: int, *, healthy: bool) -> tuple[int, bytes, dict[str, str]]:
    """(status, body, headers) in upstream's form."""
    namespace, name = service
    body = {
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": local_endpoints,
        "serviceProxyHealthy": healthy,
    }
    headers = {
        "Content-Type": "application/json",
        "X-Content-Type-Options": "nosniff",
        "X-Load-Balancing-Endpoint-Weight": str(local_endpoints),
    }
    return 200 if healthy and local_endpoints else 503, orjson.dumps(body), headers
