"""What is installed, out of `nft -j list table`.

Rules are not read back: a chain that is there counts as different from any that we want, so that the first transaction
after a start writes it anew. Nor are the elements of sets with time-outs: rules put them there, and they outlive us.
"""

from typing import Any

from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Items

UNKNOWN = Chain((), "?")
_PROTOCOLS = {"tcp": "6", "udp": "17", "sctp": "132"}


class Unreadable(ValueError):
    """The listing is not of a table that we could have made."""


def installed(listing: dict[str, Any], base: Items) -> Items:
    """The items of a listed table; `base` are those that are always there. Raises Unreadable."""
    items: Items = {}
    try:
        for entry in listing["nftables"]:
            ((kind, body),) = entry.items()
            if kind == "chain":
                chain = base.get((CHAIN, body["name"]))
                hook = chain.hook if isinstance(chain, Chain) else ""
                if _hook(body) != hook:
                    raise Unreadable(f"chain {body['name']} hangs elsewhere")
                items[CHAIN, body["name"]] = UNKNOWN
            elif kind in ("map", "set"):
                _read_container(items, kind, body)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(repr(error)) from None
    for item, spec in items.items():
        if item in base and item[0] == CONTAINER and spec != base[item]:
            raise Unreadable(f"{item[1]} is another {spec}")
    return items


def _hook(chain: dict[str, Any]) -> str:
    return f"{chain['type']} hook {chain['hook']} priority {chain['prio']}" if "hook" in chain else ""


def _read_container(items: Items, kind: str, body: dict[str, Any]) -> None:
    name, types = body["name"], body["type"]
    spec = f"{kind} type {types if isinstance(types, str) else ' . '.join(types)}"
    if kind == "map":
        spec += f" : {body['map']}"
    if "timeout" in body.get("flags", ()):
        items[CONTAINER, name] = f"{spec}; flags dynamic,timeout; size {body.get('size', 0)};"
        return
    items[CONTAINER, name] = f"{spec};"
    for element in body.get("elem") or ():
        if kind == "map":
            key, value = element
            items[name, _text(key)] = _text(value)
        else:
            items[name, _text(element)] = ""


def _text(value: Any) -> str:
    if isinstance(value, dict):
        if "concat" in value:
            return " . ".join(map(_text, value["concat"]))
        if "goto" in value:
            return f"goto {value['goto']['target']}"
        raise Unreadable(f"no element of ours: {value}")
    return _PROTOCOLS.get(value, value) if isinstance(value, str) else str(value)
