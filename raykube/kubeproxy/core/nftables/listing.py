"""What is installed, out of `nft -j list table`.

Rules are not read back: a chain that is there counts as different from any that we want, so that the first transaction
after a start writes it anew. Sets of clients keep their elements: affinity outlives us.
"""

from typing import Any

from raykube.kubeproxy.core.nftables.ruleset import CHAIN, CONTAINER, Chain, Items

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
                _read_container(items, kind, body, base)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(repr(error)) from None
    return items


def _hook(chain: dict[str, Any]) -> str:
    return f"{chain['type']} hook {chain['hook']} priority {chain['prio']}" if "hook" in chain else ""


def _read_container(items: Items, kind: str, body: dict[str, Any], base: Items) -> None:
    name = body["name"]
    known = base.get((CONTAINER, name))
    if known is None and name.startswith("clients-"):
        address = body["type"]
        items[CONTAINER, name] = f"{kind} type {address}; flags dynamic,timeout; size {body.get('size', 0)};"
        return
    if known is None or not isinstance(known, str):
        items[CONTAINER, name] = f"{kind} ?"
        return
    if not known.startswith(f"{kind} "):
        raise Unreadable(f"{name} is a {kind}")
    items[CONTAINER, name] = known
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
