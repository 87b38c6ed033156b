"""Services, EndpointSlices and queries as tests write them."""

from typing import Any

from dnslib import EDNS0, DNSQuestion, DNSRecord

from raykube.dns.core.zone import Zone

Object = dict[str, Any]
DOMAIN = "cluster.local"


def namespace(name: str) -> Object:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def service(name: str, *ips: str, ns: str = "default", ports: list[str] | None = None, external: str = "") -> Object:
    """`ips` are cluster IPs, "None" for a headless one; ports are `name:number/PROTOCOL`."""
    spec: Object = {"ports": [port(text) for text in ports or ()]}
    if external:
        spec |= {"type": "ExternalName", "externalName": external}
    else:
        spec |= {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": list(ips)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": ns}, "spec": spec}


def port(text: str) -> Object:
    """`http:80/TCP`; without a name `:80/TCP`."""
    name, _, rest = text.partition(":")
    number, _, protocol = rest.partition("/")
    return {"name": name, "port": int(number), "protocol": protocol or "TCP"}


def endpoint(text: str) -> Object:
    """`10.1.0.1`, with a host name `web-0=10.1.0.1`, not ready `!10.1.0.1`."""
    hostname, _, address = text.removeprefix("!").rpartition("=")
    found: Object = {"addresses": [address], "conditions": {"ready": not text.startswith("!")}}
    return found | ({"hostname": hostname} if hostname else {})


def endpoint_slice(
    service_name: str, *endpoints: str, ns: str = "default", name: str = "", ports: list[str] | None = None
) -> Object:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service_name}-1",
            "namespace": ns,
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": "IPv6" if any(text.count(":") > 1 for text in endpoints) else "IPv4",
        "endpoints": [endpoint(text) for text in endpoints],
        "ports": [port(text) for text in ports or ()],
    }


def put(zone: Zone, *objects: Object) -> None:
    for obj in objects:
        metadata = obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        if obj["kind"] == "Namespace":
            zone.set_namespace(metadata["name"], True)
        elif obj["kind"] == "Service":
            zone.set_service(key, obj)
        else:
            zone.set_slice(key, obj)


def remove(zone: Zone, *objects: Object) -> None:
    for obj in objects:
        metadata = obj["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        if obj["kind"] == "Namespace":
            zone.set_namespace(metadata["name"], False)
        elif obj["kind"] == "Service":
            zone.set_service(key, None)
        else:
            zone.set_slice(key, None)


def query(name: str, kind: str = "A", *, edns: int = 0, number: int = 0x1234) -> bytes:
    """A query message; with `edns` for answers of so many bytes."""
    found = DNSRecord(q=DNSQuestion(name, getattr(__import__("dnslib").QTYPE, kind)))
    found.header.id = number
    if edns:
        found.add_ar(EDNS0(udp_len=edns))
    return bytes(found.pack())
