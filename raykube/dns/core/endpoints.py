"""What DNS needs of an EndpointSlice. Pure."""

from ipaddress import ip_address
from typing import Any, NamedTuple

Object = dict[str, Any]
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class Port(NamedTuple):
    """One port of a Service or of an EndpointSlice."""

    name: str
    protocol: str  # in lower case, as names have it
    number: int


class Endpoint(NamedTuple):
    """One address of a ready endpoint."""

    hostname: str  # "": none was given
    address: str
    packed: bytes  # the address as records have it: 4 bytes or 16

    @property
    def label(self) -> str:
        """Its name within the Service: what was given, or its address with dashes as CoreDNS has it."""
        return self.hostname or self.address.replace(".", "-").replace(":", "-")


class Slice(NamedTuple):
    """The ready endpoints of one EndpointSlice, and its ports."""

    ports: tuple[Port, ...]
    endpoints: tuple[Endpoint, ...]


def service_key(obj: Object) -> tuple[str, str] | None:
    """The Service of an EndpointSlice; None when it belongs to none."""
    metadata = obj["metadata"]
    name = (metadata.get("labels") or {}).get(SERVICE_NAME_LABEL)
    return (metadata.get("namespace", ""), name) if name else None


def ports_of(items: list[Object] | None) -> tuple[Port, ...]:
    """Those that have a number: a slice's port may have none (then all ports are meant), or one that is no port's."""
    return tuple(
        Port((item.get("name") or "").lower(), (item.get("protocol") or "TCP").lower(), item["port"])
        for item in items or ()
        if 0 < (item.get("port") or 0) < 65536
    )


def slice_of(obj: Object) -> Slice:
    """An endpoint is ready unless it says that it is not; publishNotReadyAddresses makes all say so."""
    endpoints = []
    if obj.get("addressType") != "FQDN":
        for endpoint in obj.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is False:
                continue
            hostname = (endpoint.get("hostname") or "").lower()
            endpoints += [found for text in endpoint["addresses"] for found in _endpoint(hostname, text)]
    return Slice(ports_of(obj.get("ports")), tuple(endpoints))


def _endpoint(hostname: str, text: str) -> list[Endpoint]:
    """Its address in the one spelling that reverse names have; none for what is no address."""
    try:
        ip = ip_address(text)
    except ValueError:
        return []
    return [Endpoint(hostname, str(ip), ip.packed)]
