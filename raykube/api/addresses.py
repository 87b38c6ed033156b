"""Where an endpoint's IP address leads: not back to whoever connects, and not to what is near its machine.

Where pods have loopback addresses, all over 127.0.0.0/8, a Service may lead there, though the apiserver itself proxies
nobody to its own localhost.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_LOCALHOST = (IPv4Address("127.0.0.1"), IPv6Address("::1"))
_MULTICAST = (IPv4Network("224.0.0.0/24"), IPv6Network("ff02::/16"))


def parse(text: str) -> Address:
    """An IPv4 address that is written as an IPv6 one is IPv4, as the kernel takes it. Raises ValueError."""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_loopback(text: str) -> bool:
    """Whether it is an address of the machine for itself; a host's name is none."""
    try:
        return parse(text).is_loopback
    except ValueError:
        return False


def endpoint_problem(address: Address, *, loopback: bool = False) -> str:
    """Why no Service may lead there, in upstream's words; empty when one may. `loopback`: 127.0.0.0/8 has pods."""
    if address.is_unspecified:
        return f"may not be unspecified ({address})"
    if address.is_loopback and not (loopback and address.version == 4):
        return "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    if address.is_link_local:
        return "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    if any(address in network for network in _MULTICAST):
        return "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
    return ""


def may_proxy(address: Address) -> bool:
    """Whether the apiserver may connect there for a client."""
    return not (address in _LOCALHOST or address.is_unspecified or address.is_link_local or address.is_multicast)
