"""What a rule makes of a client's address, where a program and not the kernel decides."""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from raykube.kubeproxy.core.rules import Rule

_network = lru_cache(maxsize=4096)(ip_network)


def _within(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def admitted(rule: Rule, client: str) -> bool:
    """Whether the rule's source ranges let the client in."""
    return not rule.source_ranges or _within(client, [_network(text) for text in rule.source_ranges if text])


class Insiders:
    """Who is a client of the cluster: its pods, and this node itself."""

    def __init__(self, pod_networks: Iterable[str] = (), addresses: Iterable[str] = ()) -> None:
        self._networks = [ip_network(text, strict=False) for text in (*pod_networks, "127.0.0.0/8", "::1/128")]
        self._addresses = frozenset(addresses)

    def __contains__(self, client: str) -> bool:
        return client in self._addresses or _within(client, self._networks)
