"""An nftables table as plain data, and the transaction that turns one state of it into another. Pure.

A table is named sets, chains and verdict maps. `whole` writes all of it in place of what is there, `changes` only what
differs; either is one transaction for `nft -f -`: packets see the table before or after, never between.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

TABLE = "inet raykube-pods"
MASQUERADE_TABLE = "inet raykube-masquerade"
CHUNK = 1000  # elements a command


@dataclass(frozen=True, slots=True)
class NamedSet:
    """`kind` is nft's declaration of the key ("type ipv4_addr;"), elements in nft's words."""

    kind: str
    elements: frozenset[str]


@dataclass(frozen=True, slots=True)
class VerdictMap:
    """Key → verdict ("goto chain")."""

    kind: str
    elements: Mapping[str, str]


@dataclass(frozen=True)
class Ruleset:
    """`hooks`: base chains with their declaration, never changed once installed; `chains`: those that they lead to."""

    sets: Mapping[str, NamedSet] = field(default_factory=dict)
    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    maps: Mapping[str, VerdictMap] = field(default_factory=dict)
    hooks: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)


def _elements(verb: str, name: str, elements: list[str]) -> list[str]:
    return [
        f"{verb} element {TABLE} {name} {{ {', '.join(elements[at : at + CHUNK])} }}"
        for at in range(0, len(elements), CHUNK)
    ]


def _pairs(elements: Mapping[str, str]) -> list[str]:
    return [f"{key} : {verdict}" for key, verdict in sorted(elements.items())]


def whole(ruleset: Ruleset) -> str:
    """Replaces the table, whatever is in it."""
    lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    lines += changes(Ruleset(), ruleset).splitlines()
    for name, (declaration, rules) in ruleset.hooks.items():
        lines.append(f"add chain {TABLE} {name} {{ {declaration} }}")
        lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"


def changes(old: Ruleset, new: Ruleset) -> str:
    """What turns `old` into `new`, an empty string if nothing differs. Base chains stay as they are."""
    lines: list[str] = []
    rekeyed = {name for name, one in new.sets.items() if name in old.sets and old.sets[name].kind != one.kind}
    assert not rekeyed, f"a set's name says its type, yet these changed it: {rekeyed}"
    for name, one in new.sets.items():
        if name not in old.sets:
            lines.append(f"add set {TABLE} {name} {{ {one.kind} }}")
    for name, verdicts in new.maps.items():
        if name not in old.maps:
            lines.append(f"add map {TABLE} {name} {{ {verdicts.kind} }}")
    fresh = [name for name in new.chains if name not in old.chains]
    lines += [f"add chain {TABLE} {name}" for name in fresh]
    for name, rules in new.chains.items():
        before = old.chains.get(name)
        if before is rules or before == rules:
            continue
        if before is not None:
            lines.append(f"flush chain {TABLE} {name}")
        lines += [f"add rule {TABLE} {name} {rule}" for rule in rules]
    for name, one in new.sets.items():
        known = old.sets.get(name)
        if known is one:
            continue
        have = known.elements if known else frozenset()
        lines += _elements("delete", name, sorted(have - one.elements))
        lines += _elements("add", name, sorted(one.elements - have))
    for name, verdicts in new.maps.items():
        past = old.maps[name].elements if name in old.maps else {}
        gone = {key: verdict for key, verdict in past.items() if verdicts.elements.get(key) != verdict}
        added = {key: verdict for key, verdict in verdicts.elements.items() if past.get(key) != verdict}
        lines += _elements("delete", name, _pairs(gone))
        lines += _elements("add", name, _pairs(added))
    unused = [name for name in old.chains if name not in new.chains]
    lines += [f"flush chain {TABLE} {name}" for name in unused]  # they may lead to each other
    lines += [f"delete chain {TABLE} {name}" for name in unused]
    lines += [f"delete set {TABLE} {name}" for name in old.sets if name not in new.sets]
    return "\n".join(lines) + "\n" if lines else ""
