"""A delta as the text of one transaction, in an order in which nothing is missing that something else refers to."""

from collections import defaultdict
from collections.abc import Iterator

from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Delta, Items
from raykube.nftables.core.ruleset import difference


def transaction(table: str, delta: Delta) -> str:
    """nft commands for a table that may or may not exist; "" for an empty delta."""
    return "\n".join([f"add table {table}", *_commands(table, delta), ""]) if delta else ""


def replacement(table: str, desired: Items) -> str:
    """nft commands that drop the table, if there is one, and install another at the same instant."""
    return removal(table) + transaction(table, difference({}, desired))


def removal(table: str) -> str:
    """nft commands that leave no table."""
    return f"add table {table}\ndelete table {table}\n"


def _commands(table: str, delta: Delta) -> Iterator[str]:
    gone_elements: dict[str, list[str]] = defaultdict(list)
    new_elements: dict[str, list[str]] = defaultdict(list)
    containers: list[tuple[str, str]] = []
    gone_containers: list[tuple[str, str]] = []
    chains: list[tuple[str, Chain, bool]] = []
    gone_chains: list[str] = []
    for (container, key), (old, new) in delta.items():
        if container == CHAIN:
            if isinstance(new, Chain):
                chains.append((key, new, old is not None))
            else:
                gone_chains.append(key)
        elif container == CONTAINER:
            if isinstance(new, str):
                containers.append((key, new))
            else:
                gone_containers.append((key, str(old).partition(" ")[0]))
        else:
            if old is not None:
                gone_elements[container].append(key)
            if new is not None:
                new_elements[container].append(f"{key} : {new}" if new else key)
    for name, spec in containers:
        kind, _, body = spec.partition(" ")
        yield f"add {kind} {table} {name} {{ {body} }}"
    for name, chain, _ in chains:
        hook = f" {{ type {chain.hook}; policy accept; }}" if chain.hook else ""
        yield f"add chain {table} {name}{hook}"
    for name, _, exists in chains:
        if exists:
            yield f"flush chain {table} {name}"
    for container, keys in gone_elements.items():
        yield f"delete element {table} {container} {{ {', '.join(keys)} }}"
    for name, chain, _ in chains:
        for rule in chain.rules:
            yield f"add rule {table} {name} {rule}"
    for container, elements in new_elements.items():
        yield f"add element {table} {container} {{ {', '.join(elements)} }}"
    for name in gone_chains:
        yield f"flush chain {table} {name}"
    for name in gone_chains:
        yield f"delete chain {table} {name}"
    for name, kind in gone_containers:
        yield f"delete {kind} {table} {name}"
