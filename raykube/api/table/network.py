"""Rows of Services and what they lead to: Endpoints, EndpointSlices, Ingresses, NetworkPolicies, addresses."""

from collections.abc import Iterator
from typing import Any

from raykube.api.table.ages import object_age
from raykube.api.table.columns import (
    AGE,
    NAME,
    NONE,
    UNSET,
    Object,
    Printer,
    labels_text,
    name_of,
    named_and_aged,
    shortened,
    spec,
    status,
    text,
)
from raykube.api.table.workloads import selector_text

_SHOWN = 3


def _balancer_addresses(obj: Object) -> list[str]:
    ingress = (status(obj).get("loadBalancer") or {}).get("ingress") or ()
    return [each.get("ip") or each.get("hostname") or "" for each in ingress]


def _external_address(service: Object) -> str:
    wanted = spec(service)
    kind, external = wanted.get("type", "ClusterIP"), wanted.get("externalIPs") or []
    if kind == "ExternalName":
        return str(wanted.get("externalName", ""))
    if kind == "LoadBalancer":
        return ",".join(_balancer_addresses(service) + external) or "<pending>"
    return ",".join(external) or NONE


def _port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node_port}/{port.get('protocol', 'TCP')}"


def _service(obj: Object, now: float) -> list[Any]:
    wanted = spec(obj)
    addresses = wanted.get("clusterIPs") or [wanted.get("clusterIP")]
    return [
        name_of(obj),
        wanted.get("type", "ClusterIP"),
        addresses[0] or NONE,
        _external_address(obj),
        ",".join(map(_port, wanted.get("ports") or ())) or NONE,
        object_age(obj, now),
        labels_text(wanted.get("selector")),
    ]


def _host_port(address: str, port: Any) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoint_addresses(obj: Object) -> Iterator[str]:
    for subset in obj.get("subsets") or ():
        ports = subset.get("ports") or ()
        addresses = [each.get("ip", "") for each in subset.get("addresses") or ()]
        if not ports:
            yield from addresses
        for port in ports:
            yield from (_host_port(address, port.get("port")) for address in addresses)


def _slice_ports(obj: Object) -> str:
    return shortened((str(each.get("port") or "*") for each in obj.get("ports") or ()), _SHOWN, empty=UNSET)


def _slice_addresses(obj: Object) -> str:
    addresses = (address for each in obj.get("endpoints") or () for address in each.get("addresses") or ())
    return shortened(addresses, _SHOWN, empty=UNSET)


def _hosts(obj: Object) -> str:
    return shortened((each["host"] for each in spec(obj).get("rules") or () if each.get("host")), _SHOWN, empty="*")


def _class_parameters(obj: Object) -> str:
    parameters = spec(obj).get("parameters")
    if not parameters:
        return NONE
    group = f".{parameters['apiGroup']}" if parameters.get("apiGroup") else ""
    return f"{parameters.get('kind', '')}{group}/{parameters.get('name', '')}"


def _parent(obj: Object) -> str:
    parent = spec(obj).get("parentRef") or {}
    parts = [parent.get("resource", "")]
    if parent.get("group"):
        parts[0] += f".{parent['group']}"
    return "/".join(filter(None, [*parts, parent.get("namespace"), parent.get("name")]))


PRINTERS = {
    ("", "services"): Printer(
        (
            NAME,
            text("Type", "core.v1.ServiceSpec:type"),
            text("Cluster-IP", "core.v1.ServiceSpec:clusterIP"),
            text("External-IP", "core.v1.ServiceSpec:externalIPs"),
            text("Port(s)", "core.v1.ServiceSpec:ports"),
            AGE,
            text("Selector", "core.v1.ServiceSpec:selector", wide=True),
        ),
        _service,
    ),
    ("", "endpoints"): named_and_aged(
        (text("Endpoints", "core.v1.Endpoints:subsets"), lambda obj: shortened(_endpoint_addresses(obj), _SHOWN))
    ),
    ("discovery.k8s.io", "endpointslices"): named_and_aged(
        (text("AddressType", "discovery.v1.EndpointSlice:addressType"), lambda obj: obj.get("addressType", "")),
        (text("Ports", "discovery.v1.EndpointSlice:ports"), _slice_ports),
        (text("Endpoints", "discovery.v1.EndpointSlice:endpoints"), _slice_addresses),
    ),
    ("networking.k8s.io", "ingresses"): named_and_aged(
        (
            text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
            lambda obj: spec(obj).get("ingressClassName") or NONE,
        ),
        (text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"), _hosts),
        (
            text("Address", "Address is a list containing ingress points for the load-balancer"),
            lambda obj: ",".join(_balancer_addresses(obj)),
        ),
        (
            text("Ports", "Ports of TLS configurations that open"),
            lambda obj: "80, 443" if spec(obj).get("tls") else "80",
        ),
    ),
    ("networking.k8s.io", "ingressclasses"): named_and_aged(
        (
            text("Controller", "Controller that is responsible for handling this class"),
            lambda obj: spec(obj).get("controller", ""),
        ),
        (text("Parameters", "A reference to a resource with additional parameters"), _class_parameters),
    ),
    ("networking.k8s.io", "networkpolicies"): named_and_aged(
        (
            text("Pod-Selector", "networking.v1.NetworkPolicySpec:podSelector"),
            lambda obj: selector_text(spec(obj).get("podSelector")),
        )
    ),
    ("networking.k8s.io", "ipaddresses"): named_and_aged(
        (text("ParentRef", "networking.v1.IPAddressSpec:parentRef"), _parent)
    ),
    ("networking.k8s.io", "servicecidrs"): named_and_aged(
        (text("CIDRs", "networking.v1.ServiceCIDRSpec:cidrs"), lambda obj: ",".join(spec(obj).get("cidrs") or ()))
    ),
}
