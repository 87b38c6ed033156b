"""Which upstream servers there are, and whom to ask first. Pure.

The order is the one given, as resolvers have it; servers that failed come after those that did not, and one that leads
back here is not asked at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from raykube.base.backoff import Backoff

DNS_PORT = 53
SERVERS_MAX = 15  # CoreDNS' bound
REST = Backoff(initial_s=0.5, max_s=30.0)

Address = tuple[str, int]


def nameservers(text: str) -> list[str]:
    """The addresses of a resolv.conf; lines that cannot be read are passed over, as resolvers do."""
    found = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ip_address(words[1].partition("%")[0])
            except ValueError:
                continue
            found.append(words[1])
    return list(dict.fromkeys(found))[:SERVERS_MAX]


@dataclass(slots=True)
class _Server:
    failures: int = 0
    rests_until: float = 0.0
    loops: bool = False


class Upstreams:
    """The servers by address."""

    def __init__(self) -> None:
        self.own: set[Address] = set()  # what this server answers on itself
        self._servers: dict[Address, _Server] = {}

    def set(self, addresses: Sequence[Address]) -> list[Address]:
        """Replaces the list; what is known of those that stay is kept. Returns those left out: they are this server."""
        mine = [address for address in addresses if address in self.own]
        kept = [address for address in addresses if address not in self.own]
        self._servers = {address: self._servers.get(address) or _Server() for address in kept}
        return mine

    @property
    def addresses(self) -> list[Address]:
        return list(self._servers)

    @property
    def looping(self) -> list[Address]:
        return [address for address, server in self._servers.items() if server.loops]

    def order(self, now: float) -> list[Address]:
        """Whom to ask, first to last."""
        usable = [(address, server) for address, server in self._servers.items() if not server.loops]
        fit = [address for address, server in usable if server.rests_until <= now]
        resting = sorted((item for item in usable if item[1].rests_until > now), key=lambda item: item[1].rests_until)
        return [*fit, *(address for address, _ in resting)]

    def on_answer(self, address: Address) -> None:
        server = self._servers.get(address)
        if server is not None:
            server.failures, server.rests_until = 0, 0.0

    def on_failure(self, address: Address, now: float) -> None:
        server = self._servers.get(address)
        if server is not None:
            server.failures += 1
            server.rests_until = now + REST.delay_s(server.failures)

    def on_probe(self, address: Address, loops: bool) -> bool:
        """Whether a probe came back to a DNS of the cluster; returns whether that is news."""
        server = self._servers.get(address)
        if server is None or server.loops == loops:
            return False
        server.loops = loops
        return True
