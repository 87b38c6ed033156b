"""Services, EndpointSlices and Nodes for tests, short to write."""

from typing import Any


def service(name: str = "web", ip: str = "127.0.0.1", *, namespace: str = "n", **spec: Any) -> dict[str, Any]:
    """A Service; `ports` defaults to [80 → 8080]."""
    spec.setdefault("ports", [{"port": 80, "targetPort": 8080, "protocol": "TCP"}])
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": namespace, "name": name, "uid": f"uid-{name}"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], **spec},
    }


def endpoint(address: str, node: str = "m1", **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "nodeName": node, "conditions": {"ready": True, **conditions}}


def endpoint_slice(
    *endpoints: dict[str, Any],
    port: int | dict[str, int] = 8080,
    service: str = "web",
    name: str = "",
    namespace: str = "n",
    protocol: str = "TCP",
    family: str = "IPv4",
) -> dict[str, Any]:
    """An EndpointSlice; `port` is one number, or numbers by port name."""
    ports = port if isinstance(port, dict) else {"": port}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": namespace,
            "name": name or f"{service}-abc",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": each, "port": number, "protocol": protocol} for each, number in ports.items()],
        "endpoints": list(endpoints),
    }


def node(name: str, ip: str, relay: str = "") -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if relay:
        metadata["annotations"] = {"raykube.io/kube-proxy-relay": relay}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "status": {"addresses": [{"type": "InternalIP", "address": ip}]},
    }
