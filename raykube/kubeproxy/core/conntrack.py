"""Which tracked UDP flows a change of a rule makes stale.

The kernel sends a flow where its first datagram went for as long as datagrams keep coming: to an endpoint that is gone,
or, when there was none, to nowhere. TCP needs none of this: its endpoints reset what they do not know.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from raykube.kubeproxy.core.nftables.layout import PROTOCOL_NUMBERS, family_of
from raykube.kubeproxy.core.rules import Endpoint, Frontend, Rule
from raykube.nftables.core.objects import Delta

LOOKUPS = ("services", "inside", "node-ports", "node-inside")  # where rules find a frontend


@dataclass(frozen=True, slots=True)
class StaleFlows:
    """All flows to the frontend but those to the endpoints to keep."""

    address: str
    port: int
    keep: frozenset[tuple[str, int]]


def _endpoints(rule: Rule | None) -> frozenset[Endpoint]:
    return frozenset((*rule.endpoints, *(rule.inside or ()))) if rule is not None else frozenset()


def stale(frontend: Frontend, old: Rule | None, new: Rule | None, node_ips: Iterable[str]) -> Iterator[StaleFlows]:
    """What to forget when a frontend's rule became another; one for all addresses of the node stands for each."""
    if frontend.protocol != "UDP":
        return
    before, after = _endpoints(old), _endpoints(new)
    if before <= after and (before or not after):
        return  # nothing went, and nothing began
    keep = frozenset((endpoint.address, endpoint.port) for endpoint in after)
    if frontend.address in ("0.0.0.0", "::"):
        addresses = [ip for ip in node_ips if (":" in ip) == (":" in frontend.address)]
    else:
        addresses = [frontend.address]
    for address in addresses:
        yield StaleFlows(address, frontend.port, keep)


def gone_while_away(delta: Delta, family: str, node_ips: Iterable[str]) -> Iterator[StaleFlows]:
    """Flows to the UDP frontends that were installed when this proxy started, and are no more."""
    for (container, key), (_, new) in delta.items():
        if new is not None or container not in LOOKUPS:
            continue
        *address, protocol, port = key.split(" . ")
        if protocol == str(PROTOCOL_NUMBERS["UDP"]):
            addresses = address or [ip for ip in node_ips if family_of(ip) == family]
            yield from (StaleFlows(each, int(port), frozenset()) for each in addresses)
