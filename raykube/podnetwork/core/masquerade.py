"""Pods that talk to what is outside the cluster do it with their machine's address: nobody there knows theirs. Pure."""

from collections.abc import Sequence
from ipaddress import ip_network

from raykube.podnetwork.core.ruleset import MASQUERADE_TABLE

MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def masquerading(pod_cidrs: Sequence[str], cluster_cidrs: Sequence[str]) -> str:
    """The transaction that installs the table, in place of what is there."""
    lines = [f"add table {MASQUERADE_TABLE}", f"delete table {MASQUERADE_TABLE}", f"add table {MASQUERADE_TABLE}"]
    lines.append(f"add chain {MASQUERADE_TABLE} post {{ type nat hook postrouting priority srcnat; }}")
    for cidr in pod_cidrs:
        version = ip_network(cidr).version
        family = "ip6" if version == 6 else "ip"
        inside = [text for text in (*cluster_cidrs, cidr) if ip_network(text).version == version]
        # A set of overlapping ranges is refused: only ranges that lie in no other one.
        ranges = [ip_network(text) for text in dict.fromkeys(inside)]
        outer = [one for one in ranges if not any(_within(one, other) for other in ranges if other != one)]
        spared = ", ".join([*map(str, outer), MULTICAST[version]])
        lines.append(
            f"add rule {MASQUERADE_TABLE} post {family} saddr {cidr} {family} daddr != {{ {spared} }} masquerade"
        )
    return "\n".join(lines) + "\n"


def _within(one: object, other: object) -> bool:
    return one.subnet_of(other)  # type: ignore[attr-defined, no-any-return]
