"""Step by step or at once: the kernel holds the same table."""

import json
import os
import random
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import netns

from raykube.nftables.core.text import replacement, transaction
from raykube.podnetwork.core.endpoints import endpoint_of
from raykube.podnetwork.core.policies import TABLE, Policies
from raykube.podnetwork.core.policy import parse
from tests.kit.require import missing, require_program
from tests.podnetwork.world import namespace, pod, policy

pytestmark = pytest.mark.integration


class Kernel:
    """An nftables of our own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def install(self, script: str) -> None:
        done = subprocess.run(self._command("-f", "-"), input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{script}"

    def _command(self, *arguments: str) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self._name}", "nft", *arguments]

    def table(self) -> list[str]:
        """Everything in the table, in an order of its own, without handles."""
        listing = subprocess.run(self._command("-j", "list", "ruleset"), capture_output=True, text=True, check=True)
        found = []
        for entry in json.loads(listing.stdout)["nftables"]:
            for value in entry.values():
                value.pop("handle", None)
                if isinstance(value.get("elem"), list):
                    value["elem"].sort(key=json.dumps)
            if "metainfo" not in entry:
                found.append(json.dumps(entry, sort_keys=True))
        return sorted(found)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    if os.geteuid() != 0:
        missing("needs root, for network namespaces")
    for program in ("nft", "nsenter"):
        require_program(program)
    name = f"rkr{os.getpid()}"
    netns.create(name)
    try:
        yield Kernel(name)
    finally:
        netns.remove(name)


def _peers(dice: random.Random) -> list[dict[str, Any]]:
    selector = {"matchLabels": {"app": dice.choice("abc")}}
    block = {"cidr": dice.choice(["0.0.0.0/0", "10.0.0.0/8", "fd00::/8", "::/0"])}
    return dice.choice([[{"podSelector": selector}], [{"namespaceSelector": selector}], [{"ipBlock": block}], []])


def _policy(dice: random.Random, name: str) -> dict[str, Any]:
    ports = dice.choice([[], [{"port": 80}], [{"port": "http"}], [{"port": 1, "endPort": 99, "protocol": "SCTP"}]])
    return policy(
        name,
        namespace=dice.choice("xy"),
        podSelector=dice.choice([{}, {"matchLabels": {"app": "a"}}]),
        policyTypes=dice.choice([["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
        ingress=[{"from": _peers(dice), "ports": ports}],
        egress=[{"to": _peers(dice), "ports": ports}],
    )


class History(Policies):
    """Policies that remember what they were told last of each object."""

    def __init__(self, node: str) -> None:
        super().__init__(node)
        self.told: dict[tuple[str, Any], tuple[Any, ...]] = {}

    def set_pod(self, key: Any, pod: Any) -> bool:
        self.told["set_pod", key] = (key, pod)
        return super().set_pod(key, pod)

    def set_policy(self, key: Any, policy: Any) -> bool:
        self.told["set_policy", key] = (key, policy)
        return super().set_policy(key, policy)

    def set_namespace(self, name: str, labels: Any) -> bool:
        self.told["set_namespace", name] = (name, labels)
        return super().set_namespace(name, labels)

    def anew(self) -> Policies:
        """What starts now, and is told of what there is."""
        fresh = Policies("m1")
        for (what, _), (key, found) in self.told.items():
            if found is not None:
                getattr(fresh, what)(key, found)
        fresh.take()
        return fresh


def _step(dice: random.Random, state: Policies) -> None:
    number, home = dice.randrange(6), dice.choice("xy")
    what = dice.random()
    if what < 0.6:
        place, ports = dice.choice(["m1", "m2"]), {"http": 80 + number}
        made = pod(f"p{number}", place, f"10.0.0.{number}", namespace=home, ports=ports, app=dice.choice("abc"))
        made["status"]["podIPs"].append({"ip": f"fd00::{number}"})
        state.set_pod((home, f"p{number}"), None if dice.random() < 0.3 else endpoint_of(made))
    elif what < 0.9:
        state.set_policy((home, f"q{number}"), None if dice.random() < 0.3 else parse(_policy(dice, f"q{number}")))
    else:
        state.set_namespace(home, dice.choice([{"app": "a"}, {"app": "b"}]))


HOSTILE = (
    "tcp accept\ndelete table inet victim\n#",
    "TCP; flush ruleset",
    "fd00::%x\n/64",
    "10.0.0.0/8 }\nflush ruleset",
    '"',
    "0.0.0.0/0",
    "10.0.0.0/33",
    "",
    "*",
)


def _hostile(text: str) -> list[dict[str, Any]]:
    """Rules with `text` wherever a text may stand, and numbers that are none."""
    return [
        {"ports": [{"protocol": text, "port": 80}]},
        {"ports": [{"port": text}]},
        {"from": [{"ipBlock": {"cidr": text}}], "to": [{"ipBlock": {"cidr": text}}]},
        {"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": [text, "10.0.0.0/8", "10.1.0.0/16"]}}]},
        {"ports": [{"port": 90, "endPort": 80}, {"port": 70000}]},
    ]


def test_no_text_of_an_object_becomes_a_command(kernel: Kernel) -> None:
    kernel.install("add table inet victim")
    state, key = Policies("m1"), ("x", "q")
    for text in HOSTILE:
        made = pod("p", "m1", "10.0.0.1", namespace="x", ports={text or "a": 80}, app="a")
        made["spec"]["containers"][0]["ports"].append({"name": "n", "protocol": text, "containerPort": 1})
        made["status"]["podIPs"].append({"ip": text})
        state.set_pod(("x", "p"), endpoint_of(made))
        for rule in _hostile(text):
            hostile = policy("q", namespace="x", policyTypes=["Ingress", "Egress"], ingress=[rule], egress=[rule])
            state.set_policy(key, parse(hostile))
            state.take()
            kernel.install(replacement(TABLE, state.items))
            assert "drop" in "".join(kernel.table()), "who is selected is isolated"
    assert any("victim" in line for line in kernel.table())


def test_increments_come_to_what_a_fresh_start_installs(kernel: Kernel) -> None:
    dice = random.Random(7)
    state = History("m1")
    for name in "xy":
        state.set_namespace(name, namespace(name, app="a")["metadata"]["labels"])
    kernel.install(transaction(TABLE, state.take()))
    for number in range(60):
        for _ in range(dice.randint(1, 4)):
            _step(dice, state)
        kernel.install(transaction(TABLE, state.take()))
        if number % 6 == 5:
            grown = kernel.table()
            fresh = state.anew()
            assert fresh.items == state.items
            kernel.install(replacement(TABLE, fresh.items))
            assert kernel.table() == grown
