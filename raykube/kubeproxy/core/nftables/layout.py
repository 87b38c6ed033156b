"""The part of the table that does not depend on Services, and the chains that Services share.

    packet ─► firewall (source ranges) ─► services ──@services──► cluster-2 ─┬─► to-endpoints-0 ──@endpoints-0──► pod
                                              │                              └─► to-endpoints-1 ──@endpoints-1──► pod
                                              └──@node-ports──► node-outside-2 ─► to-node-endpoints-0, …
              what found no endpoint ─► refuse ─► reset or port unreachable

A chain is shared by all frontends with as many endpoints: it draws a number below that count, and the map of that
number has one endpoint of each frontend. So one change of one Service is a few elements, however many there are.

What the chains of a frontend do to a packet's source, before the endpoint is chosen:

    cluster    cluster IP: masqueraded with --masquerade-all, or when it comes from outside the pods' networks
    outside    node port or external IP: masqueraded, for the endpoint may be on another node
    local      the same with externalTrafficPolicy Local: kept
    inside     the same for clients in the cluster, who have every endpoint: the node's own are masqueraded

A pod that reaches itself is masqueraded too (`hairpin`), or it would see its own address and answer past us.
"""

from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Items

TABLE = "raykube-proxy"
FAMILIES = ("ip", "ip6")
PROTOCOL_NUMBERS = {"TCP": 6, "UDP": 17, "SCTP": 132}


@dataclass(frozen=True, slots=True)
class Options:
    """What flags and the node say: the bit that marks packets to masquerade, and whose sources are pods."""

    mark: int = 0x4000
    masquerade_all: bool = False
    pod_networks: tuple[str, ...] = ()

    def of_family(self, family: str) -> tuple[str, ...]:
        """The pods' networks of a family."""
        networks = (ip_network(text, strict=False) for text in self.pod_networks)
        return tuple(str(network) for network in networks if (network.version == 6) == (family == "ip6"))


def table_of(family: str) -> str:
    """The table of a family, as nft names it."""
    return f"{family} {TABLE}"


def family_of(address: str) -> str:
    return "ip6" if ":" in address else "ip"


def address_type(family: str) -> str:
    return "ipv6_addr" if family == "ip6" else "ipv4_addr"


def base(family: str, options: Options) -> Items:
    """The items that are always there."""
    ip, address = family, address_type(family)
    frontend = f"{address} . inet_proto . inet_service"
    containers = {
        "services": f"map type {frontend} : verdict;",
        "inside": f"map type {frontend} : verdict;",
        "node-ports": "map type inet_proto . inet_service : verdict;",
        "node-inside": "map type inet_proto . inet_service : verdict;",
        "firewall": f"map type {frontend} : verdict;",
        "refused": f"set type {frontend};",
        "refused-node-ports": "set type inet_proto . inet_service;",
        "cluster-ips": f"set type {address};",
        "node-ips": f"set type {address};",
        "hairpin": f"set type {address} . {address};",
    }
    to_frontend, to_port = f"{ip} daddr . meta l4proto . th dport", "meta l4proto . th dport"
    on_node = f"{ip} daddr @node-ips {to_port}"
    pods = options.of_family(family)
    from_pods = [f"{ip} saddr {{ {', '.join(pods)} }} jump services-inside"] if pods else []
    unmark = f"meta mark set meta mark & {0xFFFFFFFF ^ options.mark:#x}"
    chains = {
        "firewall-prerouting": Chain(("ct state new jump firewall",), "filter hook prerouting priority -110"),
        "firewall-output": Chain(("ct state new jump firewall",), "filter hook output priority -110"),
        "firewall": Chain((f"{to_frontend} vmap @firewall",)),
        "nat-prerouting": Chain((*from_pods, "jump services"), "nat hook prerouting priority -100"),
        "nat-output": Chain(("jump services-inside", "jump services"), "nat hook output priority -100"),
        "services": Chain((f"{to_frontend} vmap @services", f"{on_node} vmap @node-ports")),
        "services-inside": Chain((f"{to_frontend} vmap @inside", f"{on_node} vmap @node-inside")),
        # Behind the translation: what still has the address of a Service found no endpoint.
        "refuse-prerouting": Chain(("ct state new jump refuse",), "filter hook prerouting priority -90"),
        "refuse-output": Chain(("ct state new jump refuse",), "filter hook output priority -90"),
        "refuse": Chain(
            (
                "ct status dnat return",
                f"{ip} daddr @cluster-ips goto refused",
                f"{to_frontend} @refused goto refused",
                f"{on_node} @refused-node-ports goto refused",
            )
        ),
        "refused": Chain(("meta l4proto 6 reject with tcp reset", "reject")),
        "nat-postrouting": Chain(
            (
                f"meta mark & {options.mark:#x} != 0 {unmark} masquerade fully-random",
                f"ct status dnat {ip} saddr . {ip} daddr @hairpin masquerade fully-random",
            ),
            "nat hook postrouting priority 100",
        ),
    }
    items: Items = {(CONTAINER, name): spec for name, spec in containers.items()}
    items |= {(CHAIN, name): chain for name, chain in chains.items()}
    return items


def source_rules(kind: str, family: str, options: Options) -> tuple[str, ...]:
    """What the chains of a kind of frontend do to the source."""
    mark = f"meta mark set meta mark | {options.mark:#x}"
    if kind == "outside" or (kind == "cluster" and options.masquerade_all):
        return (mark,)
    if kind == "inside":
        return (f"fib saddr type local {mark}",)
    pods = options.of_family(family)
    if kind == "cluster" and pods:
        return (f"{family} saddr != {{ {', '.join(pods)} }} {mark}",)
    return ()


@lru_cache(maxsize=1 << 12)
def shared(family: str, kind: str, count: int, options: Options, *, node_port: bool) -> tuple[str, str, Items]:
    """What the frontends of a kind with `count` endpoints share: a chain's name, the maps' prefix, and the items."""
    prefix = f"{'node-' if node_port else ''}{'inside-' if kind == 'inside' else ''}endpoints-"
    name = f"{'node-' if node_port else ''}{kind}-{count}"
    key = "inet_proto . inet_service" if node_port else f"{address_type(family)} . inet_proto . inet_service"
    packet = "meta l4proto . th dport" if node_port else f"{family} daddr . meta l4proto . th dport"
    items: Items = {}
    for place in range(count):
        items[CONTAINER, f"{prefix}{place}"] = f"map type {key} : {address_type(family)} . inet_service;"
        items[CHAIN, f"to-{prefix}{place}"] = Chain((f"dnat {family} to {packet} map @{prefix}{place}",))
    places = ", ".join(f"{place} : goto to-{prefix}{place}" for place in range(count))
    draw = f"numgen random mod {count} vmap {{ {places} }}" if count > 1 else f"goto to-{prefix}0"
    items[CHAIN, name] = Chain((*source_rules(kind, family, options), draw))
    return name, prefix, items
