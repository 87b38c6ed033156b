"""All rules of a node, kept by dirty Services: events mark keys, `sync` recompiles those and says what changed.

Two Services may claim one frontend (an external IP and port): a cluster IP wins over everything, then the older
Service; the other takes over when the first lets go. Nothing here scans all Services but a change of the node's own
facts.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from raykube.kubeproxy.core.healthcheck import HealthCheck, health_check
from raykube.kubeproxy.core.rules import (
    CLUSTER_IP,
    Frontend,
    NodeFacts,
    Object,
    Rule,
    ServiceKey,
    compile_service,
    service_of_slice,
    slice_endpoints,
)

SliceKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """What a sync changed: frontends with a new or another rule, and frontends that nobody claims any more."""

    set: dict[Frontend, Rule] = field(default_factory=dict)
    removed: tuple[Frontend, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.set or self.removed)


class Table:
    """The rules of node `node`."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.facts = NodeFacts(node)
        self.rules: dict[Frontend, Rule] = {}
        self._services: dict[ServiceKey, Object] = {}
        self._slices: dict[ServiceKey, dict[SliceKey, Object]] = {}
        self._slice_service: dict[SliceKey, ServiceKey | None] = {}
        self._local: dict[tuple[str, int], set[SliceKey]] = {}  # endpoints of this node → slices that name them
        self._local_of: dict[SliceKey, set[tuple[str, int]]] = {}
        self._compiled: dict[ServiceKey, dict[Frontend, Rule]] = {}
        self._claims: dict[Frontend, set[ServiceKey]] = {}
        self._dirty: set[ServiceKey] = set()
        # Of Services with a health-check node port; another dictionary after each change.
        self.health_checks: dict[ServiceKey, HealthCheck] = {}

    @property
    def dirty(self) -> int:
        """How many Services wait for a sync."""
        return len(self._dirty)

    def set_node(self, zone: str, addresses: Iterable[str]) -> None:
        """The node is in `zone`, and node ports are served on `addresses`, from the next sync on."""
        facts = NodeFacts(self.node, zone, tuple(dict.fromkeys(addresses)))
        if facts != self.facts:
            self.facts = facts
            self._dirty.update(self._services)

    def set_service(self, key: ServiceKey, service: Object | None) -> None:
        """A Service as it is now; None when it is gone."""
        if service is None:
            self._services.pop(key, None)
        else:
            self._services[key] = service
        self._dirty.add(key)

    def set_slice(self, key: SliceKey, endpoint_slice: Object | None) -> None:
        """An EndpointSlice as it is now; None when it is gone."""
        old = self._slice_service.pop(key, None)
        new = service_of_slice(endpoint_slice) if endpoint_slice is not None else None
        if old is not None and old != new:
            del self._slices[old][key]
            if not self._slices[old]:
                del self._slices[old]
            self._dirty.add(old)
        if new is not None and endpoint_slice is not None:
            self._slice_service[key] = new
            self._slices.setdefault(new, {})[key] = endpoint_slice
            self._dirty.add(new)
        local = slice_endpoints(endpoint_slice, self.node) if new is not None and endpoint_slice is not None else set()
        self._set_local(key, local)

    def _set_local(self, key: SliceKey, endpoints: set[tuple[str, int]]) -> None:
        old = self._local_of.pop(key, set())
        for endpoint in old - endpoints:
            self._local[endpoint].discard(key)
            if not self._local[endpoint]:
                del self._local[endpoint]
        for endpoint in endpoints - old:
            self._local.setdefault(endpoint, set()).add(key)
        if endpoints:
            self._local_of[key] = endpoints

    def is_local(self, address: str, port: int) -> bool:
        """Whether some Service has this endpoint on this node."""
        return (address, port) in self._local

    def service(self, key: ServiceKey) -> Object | None:
        return self._services.get(key)

    def sync(self) -> Change:
        """Recompiles the dirty Services."""
        touched: set[Frontend] = set()
        for key in self._dirty:
            service = self._services.get(key)
            slices = list(self._slices.get(key, {}).values())
            new = compile_service(service, slices, self.facts) if service is not None else {}
            self._set_health_check(key, health_check(service, slices, self.node) if service is not None else None)
            old = self._compiled.pop(key, {})
            if new:
                self._compiled[key] = new
            for frontend in old.keys() - new.keys():
                self._claims[frontend].discard(key)
            for frontend in new.keys() - old.keys():
                self._claims.setdefault(frontend, set()).add(key)
            touched.update(old, new)
        self._dirty.clear()
        return self._settle(touched)

    def _set_health_check(self, key: ServiceKey, found: HealthCheck | None) -> None:
        if found != self.health_checks.get(key):
            others = {each: check for each, check in self.health_checks.items() if each != key}
            self.health_checks = others if found is None else others | {key: found}

    def _settle(self, touched: set[Frontend]) -> Change:
        changed: dict[Frontend, Rule] = {}
        removed: list[Frontend] = []
        for frontend in sorted(touched):
            claims = [(self._compiled[key][frontend], key) for key in self._claims[frontend]]
            if not claims:
                del self._claims[frontend]
            rule = min(claims, key=self._precedence)[0] if claims else None
            if rule is None:
                if self.rules.pop(frontend, None) is not None:
                    removed.append(frontend)
            elif self.rules.get(frontend) != rule:
                self.rules[frontend] = changed[frontend] = rule
        return Change(changed, tuple(removed))

    def _precedence(self, claim: tuple[Rule, ServiceKey]) -> tuple[Any, ...]:
        rule, key = claim
        metadata = self._services[key].get("metadata") or {}
        return rule.kind != CLUSTER_IP, metadata.get("creationTimestamp") or "", key
