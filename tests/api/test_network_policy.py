"""NetworkPolicies that make no sense are refused in upstream's words."""

from typing import Any

import pytest

from raykube.api.validation.network_policy import check_network_policy


def flaws(**spec: Any) -> list[tuple[str, str]]:
    return [(cause.field, cause.message) for cause in check_network_policy({"spec": {"podSelector": {}, **spec}})]


def test_what_is_right_passes() -> None:
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    ports = [{"port": 80, "endPort": 90, "protocol": "UDP"}, {"port": "http"}, {"protocol": "SCTP"}, {}]
    peers = [{"podSelector": {}}, {"namespaceSelector": {}, "podSelector": {}}, {"ipBlock": block}]
    assert flaws(ingress=[{"from": peers, "ports": ports}, {}], egress=[{"to": peers}], policyTypes=["Egress"]) == []


@pytest.mark.parametrize(
    ("port", "field", "text"),
    [
        ({"protocol": "tcp accept\n"}, "protocol", "supported values"),
        ({"port": 70000}, "port", "must be between 1 and 65535, inclusive"),
        ({"port": "-x"}, "port", "must not begin or end with a hyphen"),
        ({"port": 90, "endPort": 80}, "endPort", "must be greater than or equal to `port`"),
        ({"port": "http", "endPort": 80}, "endPort", "may not be specified when `port` is non-numeric"),
        ({"endPort": 80}, "port", "must be specified when `endPort` is specified"),
    ],
)
def test_ports(port: dict[str, Any], field: str, text: str) -> None:
    [(place, message)] = flaws(ingress=[{"ports": [port]}])
    assert place == f"spec.ingress[0].ports[0].{field}"
    assert text in message


@pytest.mark.parametrize(
    ("peer", "field", "text"),
    [
        ({}, "", "must specify a peer"),
        ({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}, "", "may not specify both"),
        ({"ipBlock": {"cidr": "fd00::%x/64"}}, ".ipBlock.cidr", "must be a valid CIDR value"),
        ({"ipBlock": {"cidr": "10.0.0.1"}}, ".ipBlock.cidr", "must be a valid CIDR value"),
        (
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}},
            ".ipBlock.except[0]",
            "strict subset of `cidr`",
        ),
    ],
)
def test_peers(peer: dict[str, Any], field: str, text: str) -> None:
    [(place, message)] = flaws(egress=[{"to": [peer]}])
    assert place == f"spec.egress[0].to[0]{field}"
    assert text in message


def test_policy_types() -> None:
    assert [field for field, _ in flaws(policyTypes=["Both"])] == ["spec.policyTypes[0]"]
