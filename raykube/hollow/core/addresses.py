"""Addresses of hollow pods: each from a range, none twice, those given back last used again."""

from collections import deque
from ipaddress import IPv4Address, IPv4Network


class AddressPool:
    """The addresses of an IPv4 range, without the network's own and the broadcast address."""

    def __init__(self, cidr: str) -> None:
        network = IPv4Network(cidr)
        self._first = int(network.network_address) + 1
        self._end = int(network.broadcast_address)
        self._next = self._first
        self._free: deque[int] = deque()
        self._taken: set[int] = set()

    def take(self) -> int:
        """An address that nobody has; 0 when there is none."""
        while self._next < self._end:
            address = self._next
            self._next += 1
            if address not in self._taken:
                self._taken.add(address)
                return address
        while self._free:
            address = self._free.popleft()
            if address not in self._taken:
                self._taken.add(address)
                return address
        return 0

    def keep(self, text: str) -> int:
        """Takes the address that a pod has already. One of another range is nobody's to take, and stays the pod's."""
        try:
            address = int(IPv4Address(text))
        except ValueError:
            return 0
        if self._first <= address < self._end:
            self._taken.add(address)
        return address

    def give_back(self, address: int) -> None:
        """Frees an address."""
        if address in self._taken:
            self._taken.remove(address)
            if address < self._next:
                self._free.append(address)


def text(address: int) -> bytes:
    """`10.1.2.3`."""
    return b"%d.%d.%d.%d" % (address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255)
