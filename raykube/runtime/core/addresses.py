"""Pod addresses out of one range: a ring, so that a freed address rests for as long as possible."""

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network


class NoFreeAddress(Exception):
    """Every address of the range is in use."""


@dataclass(slots=True)
class AddressRing:
    """Allocates the hosts of `network` in order, going round; never one that is in use.

    The first address (the network itself) and the last of an IPv4 range are left out, as in any subnet.
    """

    network: IPv4Network | IPv6Network
    last: str = ""  # allocated most recently; durable, so that a restart does not reuse it
    used: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, cidr: str, last: str, used: set[str]) -> "AddressRing":
        """Raises ValueError when `cidr` is no address range."""
        return cls(ip_network(cidr), last, used)

    def allocate(self) -> str:
        """Takes the next free address. Raises NoFreeAddress."""
        first = int(self.network.network_address) + 1
        count = max(self.network.num_addresses - 2, 1)
        offset = 0
        if self.last and ip_address(self.last) in self.network:
            offset = int(ip_address(self.last)) - first + 1
        for step in range(count):
            address = str(ip_address(first + (offset + step) % count))
            if address not in self.used:
                self.used.add(address)
                self.last = address
                return address
        raise NoFreeAddress(f"no free pod address in {self.network}: all {count} are in use")

    def release(self, address: str) -> None:
        self.used.discard(address)
