"""Which tracked UDP flows a change of a rule makes stale.

The kernel sends a flow where its first datagram went for as long as datagrams keep coming: to an endpoint that is gone,
or, when there was none, to nowhere. TCP needs none of this: its endpoints reset what they do not know.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from raykube.kubeproxy.core.rules import Endpoint, Frontend, Rule


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
