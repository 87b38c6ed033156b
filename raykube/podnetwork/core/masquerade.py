"""Pods that talk to what is outside the cluster do it with their machine's address: nobody there knows theirs. Pure."""

from collections.abc import Sequence
from ipaddress import ip_network

from raykube.nftables.core.objects import CHAIN, Chain, Items

MASQUERADE_TABLE = "inet raykube-masquerade"
MASQUERADE_HOOKS = (POST,) = ("post",)  # the base chain
MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def masquerading(pod_cidrs: Sequence[str], cluster_cidrs: Sequence[str]) -> Items:
    """What is in the table."""
    rules = []
    for cidr in pod_cidrs:
        version = ip_network(cidr).version
        family = "ip6" if version == 6 else "ip"
        inside = [text for text in (*cluster_cidrs, cidr) if ip_network(text).version == version]
        # A set of overlapping ranges is refused: only ranges that lie in no other one.
        ranges = [ip_network(text) for text in dict.fromkeys(inside)]
        outer = [one for one in ranges if not any(_within(one, other) for other in ranges if other != one)]
        spared = ", ".join([*map(str, outer), MULTICAST[version]])
        rules.append(f"{family} saddr {cidr} {family} daddr != {{ {spared} }} masquerade")
    return {(CHAIN, POST): Chain(tuple(rules), "nat hook postrouting priority 100")}


def _within(one: object, other: object) -> bool:
    return one.subnet_of(other)  # type: ignore[attr-defined, no-any-return]
