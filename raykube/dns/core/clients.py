"""Whom this server answers: clients in networks that it was told, so that it resolves for nobody else."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

REMEMBERED_MAX = 10_000

Network = IPv4Network | IPv6Network


class Clients:
    """Addresses are as sockets give them: IPv6 ones may carry a zone, or stand for an IPv4 one."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: list[Network] = [ip_network(text) for text in networks]
        self._known: dict[str, bool] = {}

    def allows(self, client: str) -> bool:
        known = self._known.get(client)
        if known is None:
            if len(self._known) >= REMEMBERED_MAX:
                self._known.clear()
            address = _parse(client)
            known = self._known[client] = any(address in network for network in self._networks)
        return known

    @staticmethod
    def may_be_many(client: str) -> bool:
        """Loopback: a proxy on this machine, behind which any number of clients may be."""
        return _parse(client).is_loopback


def _parse(client: str) -> IPv4Address | IPv6Address:
    address = ip_address(client.partition("%")[0])
    return (address.ipv4_mapped if isinstance(address, IPv6Address) else None) or address
