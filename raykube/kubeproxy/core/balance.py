"""Which endpoint of a rule gets the next connection.

Without affinity endpoints take turns. With client-IP affinity a client's first endpoint is the one with the highest
hash of (client, endpoint), so that several proxies which share one address agree without talking; later ones are the
same endpoint as long as it serves and the client came back within the rule's time. An endpoint that could not be
connected to is passed over for a moment when there is another.

A client whom the rule's source ranges do not admit gets none; one inside the cluster may have more to choose from.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection
from hashlib import blake2b

from raykube.kubeproxy.core.clients import admitted
from raykube.kubeproxy.core.rules import Endpoint, Rule

CLIENTS_MAX = 65536
PENALTY_S = 2.0


class Balance:
    """The memory behind one frontend.

    `turn` sets where the turns begin: different for each proxy. `inside(address)`: whether a client is of the cluster.
    """

    def __init__(self, rule: Rule, turn: int = 0, inside: Callable[[str], bool] = lambda _client: False) -> None:
        self.rule = rule
        self._inside = inside
        self._turn = turn
        self._clients: OrderedDict[str, tuple[Endpoint, float]] = OrderedDict()  # → endpoint, when it was last used
        self._failed: dict[Endpoint, float] = {}

    def set_rule(self, rule: Rule) -> None:
        """The rule from now on."""
        self.rule = rule
        kept = {*rule.endpoints, *(rule.inside or ())}
        self._failed = {endpoint: when for endpoint, when in self._failed.items() if endpoint in kept}
        if not rule.affinity_s:
            self._clients.clear()

    def on_failure(self, endpoint: Endpoint, now: float) -> None:
        """No connection to `endpoint` came about."""
        self._failed[endpoint] = now

    def pick(self, client: str, now: float, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """The endpoint for a new connection of `client` (an IP address), none of `tried`; None when none is left."""
        endpoints = self.rule.endpoints
        if not admitted(self.rule, client):
            return None
        if self.rule.inside is not None and self._inside(client):
            endpoints = self.rule.inside
        left = [endpoint for endpoint in endpoints if endpoint not in tried]
        if not left:
            return None
        if self._failed:
            well = [endpoint for endpoint in left if now - self._failed.get(endpoint, -PENALTY_S) >= PENALTY_S]
            left = well or left
        return self._sticky(client, now, left) if self.rule.affinity_s else self._next(left)

    def _next(self, left: list[Endpoint]) -> Endpoint:
        self._turn += 1
        return left[self._turn % len(left)]

    def _sticky(self, client: str, now: float, left: list[Endpoint]) -> Endpoint:
        known = self._clients.pop(client, None)
        if known is not None and known[0] in left and now - known[1] < self.rule.affinity_s:
            chosen = known[0]
        else:
            chosen = max(left, key=lambda endpoint: _score(client, endpoint))
        self._clients[client] = (chosen, now)
        # The one that came longest ago is at the front: gone when its time is up, or when there are too many.
        while self._clients:
            oldest, (_, used) = next(iter(self._clients.items()))
            if now - used < self.rule.affinity_s and len(self._clients) <= CLIENTS_MAX:
                break
            del self._clients[oldest]
        return chosen


def _score(client: str, endpoint: Endpoint) -> bytes:
    return blake2b(f"{client} {endpoint.address} {endpoint.port}".encode(), digest_size=8).digest()
