"""Which core/v1 Events to write: equal ones are counted in one object, as `kubectl describe` shows them.

A *happening* is something reported about an object. Happenings equal in object, type, reason, message and component
share one Event: the first creates it, later ones raise `count` and `lastTimestamp`. Happenings that wait for the next
flush are merged before they cost a write.

Bounds: at most `pending_max` distinct happenings wait (further ones are dropped and counted: events are best effort),
and `known_max` Events are remembered (the least recently used are forgotten; a repetition then makes a new Event).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from raykube.base.clock import rfc3339
from raykube.base.ids import fnv32a

Object = dict[str, Any]


class Reference(NamedTuple):
    """The object an Event is about."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str = ""
    field_path: str = ""

    @classmethod
    def of(cls, obj: Object, field_path: str = "") -> "Reference":
        metadata = obj["metadata"]
        return cls(
            obj.get("apiVersion", "v1"),
            obj.get("kind", ""),
            metadata.get("namespace", ""),
            metadata["name"],
            metadata.get("uid", ""),
            metadata.get("resourceVersion", ""),
            field_path,
        )


class Happening(NamedTuple):
    reference: Reference
    type: str
    reason: str
    message: str


@dataclass
class _Known:
    namespace: str
    name: str
    count: int


class EventWrite(NamedTuple):
    """Create `body` when `patch` is False, else merge-patch Event `namespace`/`name` with it."""

    key: Happening
    namespace: str
    name: str
    patch: bool
    body: Object


class EventLog:
    """Aggregates happenings into Event writes. `note` never fails and never grows without bound."""

    def __init__(self, component: str, host: str = "", pending_max: int = 5000, known_max: int = 4096) -> None:
        self.component = component
        self.host = host
        self.dropped = 0
        self._pending_max = pending_max
        self._known_max = known_max
        self._pending: OrderedDict[Happening, tuple[int, float, float]] = OrderedDict()  # count, first, last
        self._known: OrderedDict[Happening, _Known] = OrderedDict()
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._pending)

    def note(self, reference: Reference, event_type: str, reason: str, message: str, now: float) -> bool:
        """Takes in one happening; False when it was dropped because too many wait."""
        # The revision does not make two happenings different.
        key = Happening(reference._replace(resource_version=""), event_type, reason, message[:1024])
        waiting = self._pending.get(key)
        if waiting is not None:
            self._pending[key] = (waiting[0] + 1, waiting[1], now)
            return True
        if len(self._pending) >= self._pending_max:
            self.dropped += 1
            return False
        self._pending[key] = (1, now, now)
        return True

    def flush(self, batch_max: int = 500) -> list[EventWrite]:
        """Takes up to `batch_max` waiting happenings out, as writes."""
        writes: list[EventWrite] = []
        while self._pending and len(writes) < batch_max:
            key, (count, first, last) = self._pending.popitem(last=False)
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                known.count += count
                body: Object = {"count": known.count, "lastTimestamp": rfc3339(last)}
                writes.append(EventWrite(key, known.namespace, known.name, True, body))
            else:
                writes.append(self._create(key, count, first, last))
        return writes

    def forget(self, key: Happening) -> None:
        """The Event of `key` is gone (they expire), or could not be written: the next happening makes a new one."""
        self._known.pop(key, None)

    def _create(self, key: Happening, count: int, first: float, last: float) -> EventWrite:
        reference = key.reference
        self._sequence += 1
        namespace = reference.namespace or "default"
        # Nanoseconds in hexadecimal, as client-go names Events; the hash and sequence keep processes apart.
        unique = (int(first * 1e9) & ~0xFFFFF) ^ (fnv32a(f"{self.component}/{self.host}".encode()) & 0xFFF00)
        name = f"{reference.name[:230]}.{unique ^ (self._sequence & 0xFFFFF):x}"
        involved = {
            "kind": reference.kind,
            "namespace": reference.namespace,
            "name": reference.name,
            "uid": reference.uid,
            "apiVersion": reference.api_version,
            "resourceVersion": reference.resource_version,
            "fieldPath": reference.field_path,
        }
        body = {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {field: value for field, value in involved.items() if value},
            "reason": key.reason,
            "message": key.message,
            "source": {"component": self.component, **({"host": self.host} if self.host else {})},
            "firstTimestamp": rfc3339(first),
            "lastTimestamp": rfc3339(last),
            "count": count,
            "type": key.type,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        }
        self._known[key] = _Known(namespace, name, count)
        if len(self._known) > self._known_max:
            self._known.popitem(last=False)
        return EventWrite(key, namespace, name, False, body)
