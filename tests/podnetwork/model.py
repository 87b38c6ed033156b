"""A dumb twin of NetworkPolicy, written from the API's documentation: may this pod talk to that one?"""

from ipaddress import ip_address, ip_network
from typing import Any

from raykube.api.label_selectors import LabelSelector

Object = dict[str, Any]


def _matches(selector: Object | None, labels: dict[str, str]) -> bool:
    return LabelSelector.from_object(selector or {}).matches(labels)


def _labels(obj: Object) -> dict[str, str]:
    found: dict[str, str] = obj["metadata"].get("labels") or {}
    return found


def _is_peer(peer: Object, home: str, pod: Object, namespaces: dict[str, Object]) -> bool:
    if "ipBlock" in peer:
        address = ip_address(pod["status"]["podIP"])
        inside = address in ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(address in ip_network(text) for text in peer["ipBlock"].get("except") or ())
    namespace = pod["metadata"]["namespace"]
    if "namespaceSelector" in peer:
        if not _matches(peer["namespaceSelector"], _labels(namespaces[namespace])):
            return False
    elif namespace != home:
        return False
    return _matches(peer.get("podSelector"), _labels(pod))


def _is_port(port: Object, receiver: Object, number: int) -> bool:
    if port.get("protocol", "TCP") != "TCP":
        return False
    wanted = port.get("port")
    if wanted is None:
        return True
    if isinstance(wanted, str):
        listed = receiver["spec"]["containers"][0]["ports"]
        return any(one["name"] == wanted and one["containerPort"] == number for one in listed)
    return bool(wanted <= number <= port.get("endPort", wanted))


def _allowed(
    policies: list[Object], direction: str, own: Object, peer: Object, number: int, namespaces: dict[str, Object]
) -> bool:
    isolated = False
    receiver = own if direction == "Ingress" else peer
    for policy in policies:
        spec, home = policy["spec"], policy["metadata"]["namespace"]
        types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
        if home != own["metadata"]["namespace"] or direction not in types:
            continue
        if not _matches(spec["podSelector"], _labels(own)):
            continue
        isolated = True
        for rule in spec.get(direction.lower()) or ():
            peers, ports = rule.get("from" if direction == "Ingress" else "to"), rule.get("ports")
            if peers and not any(_is_peer(one, home, peer, namespaces) for one in peers):
                continue
            if ports and not any(_is_port(one, receiver, number) for one in ports):
                continue
            return True
    return not isolated


def may_connect(
    source: Object, target: Object, number: int, policies: list[Object], namespaces: dict[str, Object]
) -> bool:
    """Whether TCP from pod `source` to port `number` of pod `target` passes."""
    if source is target:
        return True
    return _allowed(policies, "Egress", source, target, number, namespaces) and _allowed(
        policies, "Ingress", target, source, number, namespaces
    )
