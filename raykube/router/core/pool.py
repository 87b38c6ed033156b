"""Which backend gets the next connection: the living one with the fewest.

A *backend* is an address; it is *unknown* (not checked yet), *up*, *unready* (it answers, and says that it should get
no traffic) or *down* (it does not answer). Unknown ones are used like those that are up. When none is, the unready and
then the others are tried all the same: an apiserver that lost its store still answers reads from its cache, and a
health check that is wrong must not be worse than none.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum


class Health(IntEnum):
    """Ordered by preference."""

    UP = 0
    UNKNOWN = 1
    UNREADY = 2
    DOWN = 3


@dataclass(slots=True)
class Backend:
    """One address. `order`: when it was last chosen, so that equals take turns."""

    address: str
    health: Health = Health.UNKNOWN
    connections: int = 0
    order: int = 0
    detail: str = ""


class Pool:
    """The backends of one port."""

    def __init__(self) -> None:
        self._backends: dict[str, Backend] = {}
        self._seeds: tuple[str, ...] = ()
        self._clock = 0

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._backends.values())

    def get(self, address: str) -> Backend | None:
        return self._backends.get(address)

    @property
    def addresses(self) -> list[str]:
        return list(self._backends)

    def set_members(self, addresses: Iterable[str]) -> tuple[list[str], list[str]]:
        """Makes `addresses` the members; returns (added, removed). Open connections of removed ones go on."""
        wanted = list(dict.fromkeys(addresses))
        added = [address for address in wanted if address not in self._backends]
        removed = [address for address in self._backends if address not in wanted]
        for address in removed:
            del self._backends[address]
        for address in added:
            self._backends[address] = Backend(address)
        return added, removed

    def on_check(self, address: str, health: Health, detail: str = "") -> bool:
        """Takes a check's result; whether the health changed."""
        backend = self._backends.get(address)
        if backend is None:
            return False
        changed = backend.health != health
        backend.health, backend.detail = health, detail
        return changed

    def pick(self, tried: Collection[str] = ()) -> Backend | None:
        """The backend for a new connection, not one of `tried`; None when there is no other."""
        candidates = [backend for backend in self._backends.values() if backend.address not in tried]
        if not candidates:
            return None
        chosen = min(candidates, key=lambda backend: (_rank(backend.health), backend.connections, backend.order))
        self._clock += 1
        chosen.order = self._clock
        return chosen

    @property
    def usable(self) -> int:
        """How many backends are up."""
        return sum(backend.health is Health.UP for backend in self._backends.values())


def _rank(health: Health) -> int:
    return 0 if health in (Health.UP, Health.UNKNOWN) else int(health)
