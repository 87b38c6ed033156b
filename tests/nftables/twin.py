"""A table that takes deltas as the kernel takes transactions: what does not fit is refused."""

import re

from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Delta, Items


def applied(items: Items, delta: Delta) -> Items:
    """What the kernel would hold after a transaction."""
    found = dict(items)
    for item, (old, new) in delta.items():
        assert found.get(item) == old, f"{item} is {found.get(item)}, not {old}"
        if new is None:
            del found[item]
        else:
            found[item] = new
    for (container, _), value in found.items():
        if container not in (CHAIN, CONTAINER):
            assert (CONTAINER, container) in found
            if isinstance(value, str) and value.startswith("goto "):
                assert (CHAIN, value.removeprefix("goto ")) in found
        if isinstance(value, Chain):
            for rule in value.rules:
                for target in re.findall(r"(?:goto|jump) ([\w-]+)", rule):
                    assert (CHAIN, target) in found, rule
                for name in re.findall(r"@([\w-]+)", rule):
                    assert (CONTAINER, name) in found, rule
    return found
