"""NetworkPolicies, as the pods of one machine are subject to them. Objects in, items of one table out. Pure.

A pod that some policy selects for a direction may only use what any such policy allows there. Two base chains see every
packet that is routed to or from a pod, one for each direction, so that a packet must pass the sender's egress and the
receiver's ingress:

    hook egress ──► map of local isolated pods ──► chain of the pod's policies ──► chain of each policy ──► accept
    hook ingress ─► the same by the receiver                └── drop at its end

Pods with the same policies share a chain; who may send is a set of addresses for each rule, which changes element by
element as pods come and go. Replies to what was allowed pass, and so does how neighbours find each other. A pod reaches
itself always.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Delta, Items
from raykube.nftables.core.ruleset import Ruleset
from raykube.podnetwork.core.endpoints import Endpoint, Key
from raykube.podnetwork.core.policy import EGRESS, INGRESS, Allowance, Policy

TABLE = "inet raykube-pods"
HOOKS = OUT, IN = "out", "in"  # the base chains

# Direction → which end of the packet the selected pod is, and which its peer.
OWN_END = {INGRESS: "daddr", EGRESS: "saddr"}
PEER_END = {INGRESS: "saddr", EGRESS: "daddr"}
FAMILIES = {4: ("ip", "ipv4_addr"), 6: ("ip6", "ipv6_addr")}
SELF = {version: f"self{version}" for version in FAMILIES}
ESTABLISHED = "ct state established,related accept"
# Over IPv6, pods of one bridge ask for each other's MAC in packets that br_netfilter shows us: nothing tracks them, and
# no policy can name them. The hop limit says that no router was between.
NEIGHBOURS = "ip6 hoplimit 255 icmpv6 type { 135, 136 } accept"

_BASE, _ISOLATED = "base", "isolated"  # holders beside the policies

Match = tuple[int, str]  # IP version that it is for (0: any), and nft's words


def _name(prefix: str, *parts: str) -> str:
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    return f"{prefix}_{digest}"


@dataclass
class _Installed:
    """A policy with what it comes to: for each of its rules the pods that it lets in, by key."""

    policy: Policy
    peers: list[dict[Key, tuple[str, ...]]] = field(init=False)
    named: list[dict[str, dict[Key, tuple[str, ...]]]] = field(init=False)

    def __post_init__(self) -> None:
        self.peers = [{} for _ in self.policy.allowances]
        self.named = [{port.name: {} for port in one.ports or () if port.name} for one in self.policy.allowances]


class Policies:
    """All policies of the cluster against the pods of `node`. Set objects, then `take` what changes.

    A pod's change costs a look at each rule; what a rule comes to is kept. Objects may arrive in any order.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._pods: dict[Key, Endpoint] = {}
        self._by_namespace: dict[str, set[Key]] = {}
        self._local: dict[str, set[Key]] = {}  # those of this node
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._policies: dict[Key, _Installed] = {}
        self._dirty: set[Key] = set()  # policies whose sets and chain must be written again
        self._ruleset = Ruleset()
        self._ruleset.replace({_BASE: _base()})

    # -- what is so

    def set_pod(self, key: Key, pod: Endpoint | None) -> bool:
        """Whether anything may have changed."""
        before = self._pods.get(key)
        if before == pod:
            return False
        if pod is None:
            del self._pods[key]
            self._by_namespace[key[0]].discard(key)
        else:
            self._pods[key] = pod
            self._by_namespace.setdefault(key[0], set()).add(key)
        if pod is not None and pod.node == self._node:
            self._local.setdefault(key[0], set()).add(key)
        else:
            self._local.get(key[0], set()).discard(key)
        for policy_key, installed in self._policies.items():
            self._admit(policy_key, installed, key, pod)
        return bool(self._policies)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """Whether anything may have changed."""
        if self._namespaces.get(name) == labels:
            return False
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        for policy_key, installed in self._policies.items():
            for key in self._by_namespace.get(name, ()):
                self._admit(policy_key, installed, key, self._pods[key])
        return bool(self._policies)

    def set_policy(self, key: Key, policy: Policy | None) -> bool:
        """Whether anything may have changed."""
        known = self._policies.get(key)
        if (known.policy if known else None) == policy:
            return False
        self._dirty.add(key)
        if policy is None:
            del self._policies[key]
            return True
        installed = self._policies[key] = _Installed(policy)
        for pod_key, pod in self._pods.items():
            self._admit(key, installed, pod_key, pod)
        return True

    def _admit(self, policy_key: Key, installed: _Installed, key: Key, pod: Endpoint | None) -> None:
        """Brings what the rules of one policy come to up to one pod's state."""
        labels = self._namespaces.get(pod.namespace, {}) if pod else {}
        for allowance, peers, named in zip(installed.policy.allowances, installed.peers, installed.named, strict=True):
            let_in = pod is not None and any(one.matches(pod, labels) for one in allowance.pods)
            self._note(policy_key, peers, key, pod.addresses if pod and let_in else ())
            for name, receivers in named.items():
                wanted = {port.protocol for port in allowance.ports or () if port.name == name}
                doors = tuple(
                    f"{address} . {protocol} . {number}"
                    for port, protocol, number in (pod.ports if pod else ())
                    if port == name and protocol in wanted
                    for address in (pod.addresses if pod else ())
                )
                self._note(policy_key, receivers, key, doors)

    def _note(self, policy_key: Key, where: dict[Key, tuple[str, ...]], key: Key, values: tuple[str, ...]) -> None:
        if where.get(key, ()) == values:
            return
        if values:
            where[key] = values
        else:
            where.pop(key, None)
        self._dirty.add(policy_key)

    # -- what follows

    @property
    def items(self) -> Items:
        """Everything that ought to be in the table, as of the last `take`. Not to be changed."""
        return self._ruleset.items

    def take(self) -> Delta:
        """What has changed in the table since the last call."""
        changes: dict[object, Items] = {_ISOLATED: self._isolated()}
        for key in self._dirty:
            installed = self._policies.get(key)
            changes[key] = _policy_items(key, installed) if installed is not None else {}
        self._dirty.clear()
        self._ruleset.replace(changes)
        return self._ruleset.take()

    def _isolated(self) -> Items:
        """The maps' elements from local pods to their chains, those chains, and who may reach itself."""
        items: Items = {}
        by_namespace: dict[str, list[Key]] = {}
        for key, installed in self._policies.items():
            by_namespace.setdefault(installed.policy.namespace, []).append(key)
        for namespace, keys in by_namespace.items():
            for pod_key in self._local.get(namespace, ()):
                pod = self._pods[pod_key]
                selecting = [key for key in keys if self._policies[key].policy.selects(pod)]
                for direction in (INGRESS, EGRESS):
                    ours = sorted(key for key in selecting if direction in self._policies[key].policy.directions)
                    if not ours:
                        continue
                    name = _name(f"pods_{direction}", *("/".join(key) for key in ours))
                    jumps = [f"jump {_name(f'policy_{direction}', *key)}" for key in ours]
                    items[CHAIN, name] = Chain((*jumps, "drop"))
                    for address in pod.addresses:
                        version = ip_address(address).version
                        items[_map_name(direction, version), address] = f"goto {name}"
                        items[SELF[version], f"{address} . {address}"] = ""
        return items


def _policy_items(key: Key, installed: _Installed) -> Items:
    """The sets and chains of one policy."""
    items: Items = {}
    rules: dict[str, list[str]] = {_name(f"policy_{direction}", *key): [] for direction in installed.policy.directions}
    allowances = zip(installed.policy.allowances, installed.peers, installed.named, strict=True)
    for index, (allowance, peers, named) in enumerate(allowances):
        unique = (*key, allowance.direction, str(index))
        doors = {name: _doors(items, unique, name, receivers) for name, receivers in named.items()}
        ports = _port_matches(allowance, doors)
        chain = rules[_name(f"policy_{allowance.direction}", *key)]
        for version, peer in _peer_matches(items, unique, allowance, peers):
            for other, port in ports:
                if version == other or not version or not other:  # nft refuses a rule of two families
                    chain.append(" ".join(part for part in (peer, port, "accept") if part))
    for name, found in rules.items():
        items[CHAIN, name] = Chain(tuple(found))
    return items


def _set(items: Items, name: str, kind: str, elements: Iterable[str]) -> None:
    items[CONTAINER, name] = f"set type {kind};"
    for element in elements:
        items[name, element] = ""


def _peer_matches(
    items: Items, unique: tuple[str, ...], allowance: Allowance, peers: Mapping[Key, tuple[str, ...]]
) -> list[Match]:
    if allowance.anybody:
        return [(0, "")]
    end, found = PEER_END[allowance.direction], []
    if allowance.pods:
        for version, (family, kind) in FAMILIES.items():
            name = _name(f"peers{version}", *unique)
            _set(items, name, kind, (text for texts in peers.values() for text in texts if _version(text) == version))
            found.append((version, f"{family} {end} @{name}"))
    for block in allowance.blocks:
        version = ip_network(block.cidr).version
        family = FAMILIES[version][0]
        # nft refuses a prefix of no bits: any address of the family is meant.
        match = f"{family} {end} {block.cidr}" if ip_network(block.cidr).prefixlen else f"meta nfproto ipv{version}"
        spared = f" {family} {end} != {{ {', '.join(block.excepted)} }}" if block.excepted else ""
        found.append((version, match + spared))
    return found


def _doors(items: Items, unique: tuple[str, ...], port: str, receivers: Mapping[Key, tuple[str, ...]]) -> list[Match]:
    """Matches for a named port: where it is differs from pod to pod."""
    found = []
    for version, (family, kind) in FAMILIES.items():
        name = _name(f"named{version}", *unique, port)
        doors = (text for texts in receivers.values() for text in texts if _version(text) == version)
        _set(items, name, f"{kind} . inet_proto . inet_service", doors)
        found.append((version, f"{family} daddr . meta l4proto . th dport @{name}"))
    return found


def _map_name(direction: str, version: int) -> str:
    return f"{direction}{version}"


def _version(element: str) -> int:
    return 6 if ":" in element.split(" ", 1)[0] else 4


def _port_matches(allowance: Allowance, doors: Mapping[str, list[Match]]) -> list[Match]:
    if allowance.ports is None:
        return [(0, "")]
    found: list[Match] = []
    numbers: dict[str, list[str]] = {}
    for port in allowance.ports:
        if port.name:
            continue
        if port.first is None:
            found.append((0, f"meta l4proto {port.protocol}"))
        else:
            span = str(port.first) if port.last == port.first else f"{port.first}-{port.last}"
            numbers.setdefault(port.protocol, []).append(span)
    for protocol, spans in numbers.items():
        found += [(0, f"{protocol} dport {span}") for span in dict.fromkeys(spans)]
    return found + [
        match for port in dict.fromkeys(port.name for port in allowance.ports if port.name) for match in doors[port]
    ]


def _hook(direction: str, priority: int) -> Chain:
    rules = [ESTABLISHED, NEIGHBOURS]
    for version, (family, _) in FAMILIES.items():
        rules.append(f"{family} saddr . {family} daddr @{SELF[version]} accept")
        rules.append(f"{family} {OWN_END[direction]} vmap @{_map_name(direction, version)}")
    return Chain(tuple(rules), f"filter hook forward priority {priority}")


def _base() -> Items:
    """What is there however many policies there are."""
    # A verdict ends one base chain: what egress accepts still has to pass ingress.
    items: Items = {(CHAIN, OUT): _hook(EGRESS, -5), (CHAIN, IN): _hook(INGRESS, -4)}
    for version, (_, kind) in FAMILIES.items():
        items[CONTAINER, SELF[version]] = f"set type {kind} . {kind};"
        for direction in (INGRESS, EGRESS):
            items[CONTAINER, _map_name(direction, version)] = f"map type {kind} : verdict;"
    return items
