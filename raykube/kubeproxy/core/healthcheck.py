"""What a health-check node port answers."""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson

from raykube.kubeproxy.core.rules import Object, ServiceKey


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
