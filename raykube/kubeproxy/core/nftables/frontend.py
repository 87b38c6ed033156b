"""The items of one frontend.

    10.96.0.9:80/TCP, 2 endpoints   services     10.96.0.9 . 6 . 80  → goto cluster-2
                                    endpoints-0  10.96.0.9 . 6 . 80  → 10.1.0.1 . 8080
                                    endpoints-1  10.96.0.9 . 6 . 80  → 10.1.0.2 . 8080
                                    and what all with two endpoints share

Endpoints keep their numbers as long as they can: one that goes leaves its number to the last one.

Affinity needs memory per endpoint, so such a Service port has chains of its own: a set of clients per endpoint, which
forgets by itself, and chains that look there before they draw.
"""

from collections.abc import Collection, Sequence
from hashlib import blake2b
from ipaddress import collapse_addresses, ip_network

from raykube.kubeproxy.core.nftables.layout import (
    PROTOCOL_NUMBERS,
    Options,
    address_type,
    family_of,
    shared,
    source_rules,
)
from raykube.kubeproxy.core.rules import CLUSTER_IP, NODE_PORT, Endpoint, Frontend, Rule
from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Items

CLIENTS_MAX = 65536

Numbered = tuple[Endpoint, ...]  # an endpoint's place is its number


def number(endpoints: Sequence[Endpoint], before: Numbered = ()) -> Numbered:
    """The endpoints in an order that moves as few as possible from where they were `before`."""
    if not before:
        return tuple(endpoints)
    left = set(endpoints)
    places: list[Endpoint | None] = [None] * len(endpoints)
    for place, endpoint in enumerate(before[: len(places)]):
        if endpoint in left:
            places[place] = endpoint
            left.discard(endpoint)
    rest = iter([endpoint for endpoint in endpoints if endpoint in left])
    return tuple(endpoint if endpoint is not None else next(rest) for endpoint in places)


def items_of(
    frontend: Frontend, rule: Rule, endpoints: Numbered, inside: Numbered, *, node: str, options: Options
) -> Items:
    """What the frontend needs in the table; `endpoints` and `inside` are the rule's, numbered."""
    family, on_node = family_of(frontend.address), rule.kind == NODE_PORT
    key = f"{PROTOCOL_NUMBERS[frontend.protocol]} . {frontend.port}"
    if not on_node:
        key = f"{frontend.address} . {key}"
    outer = "cluster" if rule.kind == CLUSTER_IP else "outside" if rule.inside is None else "local"
    items: Items = {}
    if rule.kind == CLUSTER_IP:
        items["cluster-ips", frontend.address] = ""
    elif not endpoints:
        items["refused-node-ports" if on_node else "refused", key] = ""
    lists = (
        (outer, endpoints, "node-ports" if on_node else "services"),
        ("inside", inside, "node-inside" if on_node else "inside"),
    )
    for kind, numbered, lookup in lists:
        if not numbered:
            continue
        if rule.affinity_s:
            name = _sticky(items, family, rule, frontend.protocol, kind, numbered, options)
        else:
            name, prefix, common = shared(family, kind, len(numbered), options, node_port=on_node)
            items |= common
            for place, endpoint in enumerate(numbered):
                items[f"{prefix}{place}", key] = f"{endpoint.address} . {endpoint.port}"
        items[lookup, key] = f"goto {name}"
        for endpoint in numbered:
            if endpoint.node in ("", node):
                items["hairpin", f"{endpoint.address} . {endpoint.address}"] = ""
    if rule.source_ranges:
        _firewall(items, family, rule.source_ranges, key)
    return items


def _id(*parts: object) -> str:
    return blake2b("\0".join(map(str, parts)).encode(), digest_size=6).hexdigest()


def _firewall(items: Items, family: str, ranges: Collection[str], key: str) -> None:
    allowed = sorted(text for text in ranges if text)
    name = f"firewall-{_id(*allowed)}"
    accepted = (f"{family} saddr {{ {', '.join(_distinct(allowed))} }} return",) if allowed else ()
    items[CHAIN, name] = Chain((*accepted, "drop"))
    items["firewall", key] = f"goto {name}"


def _distinct(networks: Sequence[str]) -> list[str]:
    """Without networks that others contain, which a set of nftables does not take."""
    return [str(network) for network in collapse_addresses([ip_network(text) for text in networks])]  # type: ignore[type-var]


def _sticky(
    items: Items, family: str, rule: Rule, protocol: str, kind: str, endpoints: Numbered, options: Options
) -> str:
    """The chains of a Service port with affinity; returns the name of the first."""
    port = _id(*rule.service, rule.port_name, protocol)
    remembered: list[str] = []
    drawn: list[str] = []
    for place, endpoint in enumerate(endpoints):
        name = f"{port}-{_id(endpoint.address, endpoint.port)}"
        host = f"[{endpoint.address}]" if family == "ip6" else endpoint.address
        remembered_in = f"set type {address_type(family)}; flags dynamic,timeout; size {CLIENTS_MAX};"
        items[CONTAINER, f"clients-{name}"] = remembered_in
        items[CHAIN, f"endpoint-{name}"] = Chain(
            (
                f"update @clients-{name} {{ {family} saddr timeout {rule.affinity_s}s }}",
                f"meta l4proto {PROTOCOL_NUMBERS[protocol]} dnat to {host}:{endpoint.port}",
            )
        )
        remembered.append(f"{family} saddr @clients-{name} goto endpoint-{name}")
        drawn.append(f"{place} : goto endpoint-{name}")
    draw = f"numgen random mod {len(endpoints)} vmap {{ {', '.join(drawn)} }}"
    chain = f"affinity-{kind}-{port}"
    items[CHAIN, chain] = Chain((*source_rules(kind, family, options), *remembered, draw))
    return chain
