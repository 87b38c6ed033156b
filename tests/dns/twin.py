"""What a cluster's names are, from the specification's text, slow and without a thought: a list of all records.

Names are text; records are (name, type, data). `absent` and `empty` follow from the list.
"""

from ipaddress import ip_address
from typing import Any

from tests.dns.objects import DOMAIN

Object = dict[str, Any]
Row = tuple[str, str, str]


def _family(address: str) -> str:
    return "A" if ip_address(address).version == 4 else "AAAA"


def _hostname(endpoint: Object, address: str) -> str:
    return str(endpoint.get("hostname") or address.replace(".", "-").replace(":", "-"))


def _ready(slices: list[Object]) -> list[tuple[Object, str, list[Object]]]:
    return [
        (endpoint, str(ip_address(address)), each["ports"])
        for each in slices
        for endpoint in each["endpoints"]
        if endpoint["conditions"]["ready"]
        for address in endpoint["addresses"]
    ]


def rows(services: list[Object], slices: list[Object], namespaces: set[str]) -> tuple[set[Row], set[str]]:
    """All records of Services, and all names that exist."""
    found: set[Row] = set()
    names = {DOMAIN, f"svc.{DOMAIN}", f"pod.{DOMAIN}", f"dns.{DOMAIN}", f"ns.dns.{DOMAIN}", f"dns-version.{DOMAIN}"}
    names |= {f"{namespace}.{kind}.{DOMAIN}" for namespace in namespaces for kind in ("svc", "pod")}
    for service in services:
        found |= _of_service(service, slices)
    for name, kind, _ in list(found):
        if kind == "CNAME":
            continue
        names.add(name)
        parent = name
        while "._tcp." in parent or "._udp." in parent:  # what stands between a port's name and its Service's exists
            parent = parent.partition(".")[2]
            names.add(parent)
            if not parent.startswith("_"):
                break
    return found, names


def _of_service(service: Object, all_slices: list[Object]) -> set[Row]:
    metadata, spec = service["metadata"], service["spec"]
    base = f"{metadata['name']}.{metadata['namespace']}.svc.{DOMAIN}"
    if spec["type"] == "ExternalName":
        return {(base, "CNAME", spec["externalName"] + ".")}
    mine = [
        each
        for each in all_slices
        if each["metadata"]["namespace"] == metadata["namespace"]
        and each["metadata"]["labels"]["kubernetes.io/service-name"] == metadata["name"]
    ]
    found: set[Row] = set()
    headless = spec["clusterIP"] == "None"
    if not headless:
        for ip in spec["clusterIPs"]:
            found.add((base, _family(ip), ip))
            found.add((ip_address(ip).reverse_pointer, "PTR", f"{base}."))
            for port in spec["ports"]:
                found.add((base, "SRV", f"{port['port']} {base}."))
                if port["name"]:
                    name = f"_{port['name']}._{port['protocol'].lower()}.{base}"
                    found |= {(name, "SRV", f"{port['port']} {base}."), (name, _family(ip), ip)}
    for endpoint, address, ports in _ready(mine):
        own = f"{_hostname(endpoint, address)}.{base}"
        found.add((own, _family(address), address))
        if headless:
            found.add((base, _family(address), address))
        if headless or endpoint.get("hostname"):
            found.add((ip_address(address).reverse_pointer, "PTR", f"{own}."))
        for port in ports:
            found.add((own, "SRV", f"{port['port']} {own}."))
            if headless:
                found.add((base, "SRV", f"{port['port']} {own}."))
                if port["name"]:
                    name = f"_{port['name']}._{port['protocol'].lower()}.{base}"
                    found |= {(name, "SRV", f"{port['port']} {own}."), (name, _family(address), address)}
    return found


def only_services_reverse(found: set[Row]) -> set[Row]:
    """A cluster IP's reverse name is its Service's alone, whoever else claims the address."""
    own = {name for name, kind, data in found if kind == "PTR" and data.count(".") == 5}
    return {row for row in found if row[1] != "PTR" or row[0] not in own or row[2].count(".") == 5}
