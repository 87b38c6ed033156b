"""Random tables: who holds which items."""

from hypothesis import strategies as st

from raykube.nftables.core.objects import CHAIN, CONTAINER, Chain, Items

CLIENTS = "set type ipv4_addr; flags dynamic,timeout; size 64;"


def _frontend(number: int, endpoints: int, port: int) -> Items:
    """A frontend that shares a map, a set and a chain with others."""
    items: Items = {
        (CONTAINER, "services"): "map type ipv4_addr . inet_proto . inet_service : verdict;",
        (CONTAINER, "hairpin"): "set type ipv4_addr . ipv4_addr;",
        (CHAIN, f"n{endpoints}"): Chain(tuple(f"numgen random mod {n + 1} 0 drop" for n in range(endpoints))),
        ("services", f"10.96.0.{number} . 6 . {port}"): f"goto n{endpoints}",
        (CONTAINER, f"clients-{number}"): CLIENTS,
    }
    for place in range(endpoints):
        container = f"endpoints-{place}"
        items[CONTAINER, container] = "map type ipv4_addr : ipv4_addr . inet_service;"
        items[container, f"10.96.0.{number}"] = f"10.1.{number}.{place} . {port}"
        items["hairpin", f"10.1.{number}.{place} . 10.1.{number}.{place}"] = ""
    return items


frontends = st.integers(0, 5).flatmap(
    lambda number: st.tuples(
        st.just(number), st.builds(_frontend, st.just(number), st.integers(0, 3), st.sampled_from([80, 53]))
    )
)
holdings = st.one_of(frontends, st.tuples(st.integers(0, 5), st.just(dict[tuple[str, str], str | Chain]())))
