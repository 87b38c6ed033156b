"""Which devices a node can use: those of its own pools, and of pools that several nodes reach.

Nodes that reach the same places of the same pools reach the same devices, whatever is taken of them. That is kept per
row, so that who looks at all nodes searches once for all that are alike.
"""

from collections.abc import Iterable

import orjson

from raykube.scheduler.core.device_allocation import Offer
from raykube.scheduler.core.device_pools import Place, Pool, PoolId, Pools
from raykube.scheduler.core.nodes import Mask, NodeTable
from raykube.scheduler.core.requirements import term_of
from raykube.scheduler.core.terms import matches_any

EVERY = slice(None)

Reached = tuple[tuple[PoolId, frozenset[Place]], ...]


class Reach:
    """Between the pools and the nodes. `on_slices` must be called where slices changed."""

    def __init__(self, nodes: NodeTable, pools: Pools) -> None:
        self._nodes = nodes
        self._pools = pools
        self._reached: dict[int, Reached] = {}  # by row
        self._revised = -1
        self._masks: dict[bytes, Mask] = {}
        self._masks_at = (-1, -1)

    def on_slices(self, places: Iterable[Place]) -> None:
        """Devices at these places came or went."""
        for place in places:
            if place.is_wide:
                self._reached.clear()
                return
            self._reached.pop(self._nodes.rows.get(place.node, -1), None)

    def of(self, row: int) -> Reached:
        """What the node of a live row reaches; equal for nodes that reach the same devices."""
        if self._revised != self._nodes.revised:
            changed = self._nodes.changed_since(self._revised)
            for one in [*self._reached] if changed is None else changed:
                self._reached.pop(one, None)
            self._revised = self._nodes.revised
        known = self._reached.get(row)
        if known is None:
            known = self._reached[row] = tuple((pool.id, here) for pool, here in self._pools_of(row))
        return known

    def offers(self, row: int) -> list[Offer]:
        return [
            Offer(pool, pool.devices if here == pool.places else [one for one in pool.devices if one.place in here])
            for pool, here in self._pools_of(row)
        ]

    def matching(self, selector: bytes) -> Mask:
        """The nodes that a NodeSelector matches."""
        at = self._nodes.revised, self._nodes.capacity
        if self._masks_at != at:
            self._masks.clear()
            self._masks_at = at
        found = self._masks.get(selector)
        if found is None:
            terms = tuple(map(term_of, orjson.loads(selector).get("nodeSelectorTerms") or ()))
            found = self._masks[selector] = matches_any(self._nodes, terms, EVERY)
        return found

    def _pools_of(self, row: int) -> list[tuple[Pool, frozenset[Place]]]:
        """Pools with the places of them that the node reaches."""
        node = self._nodes.names[row]
        found = []
        for pool in self._pools.of_node(node):
            here = frozenset(place for place in pool.places if self._is_at(place, node, row))
            if here:
                found.append((pool, here))
        return found

    def _is_at(self, place: Place, node: str, row: int) -> bool:
        if place.node:
            return place.node == node
        return place.everywhere or bool(place.selector and self.matching(place.selector)[row])
