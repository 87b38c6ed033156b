"""What a table holds, as items named by (container, key).

    (CHAIN, "services")                         Chain(("goto refused",), "nat hook output priority -100")
    (CONTAINER, "services")                     "map type ipv4_addr . inet_proto . inet_service : verdict;"
    ("services", "10.96.0.9 . 6 . 80")          "goto cluster-2"
    ("node-ips", "192.0.2.1")                   ""

Maps are declared by types, never by `typeof`: nft 1.0.6 reads expressions back wrongly, and may abort on newer ones.
Protocols are numbers: a minimal system has no /etc/protocols.
"""

from dataclasses import dataclass

CHAIN, CONTAINER = "chain", "container"  # every other first part of an item's name is a map's or set's own

Item = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Chain:
    """The rules of a chain; `hook` makes it a base chain (`nat hook output priority -100`)."""

    rules: tuple[str, ...]
    hook: str = ""


Value = str | Chain  # of an element: what a map says, "" in a set; of a container: its kind and type
Items = dict[Item, Value]
Delta = dict[Item, tuple[Value | None, Value | None]]  # from, to; None: not there
