"""Which core/v1 Events to write: equal ones are counted in one object, as `kubectl describe` shows them.

A *happening* is something reported about an object. Happenings equal in object, type, reason, message and component
share one Event: the first creates it, later ones raise `count` and `lastTimestamp`. Happenings that wait for the next
flush are merged before they cost a write. Of one object only so much is told (`eventlimits`): many messages alike are
combined in one Event that has the last one, and what is beyond the object's writes is counted with the next.

Bounds: at most `pending_max` distinct happenings wait (further ones are dropped and counted: events are best effort),
and `known_max` Events are remembered (the least recently used are forgotten; a repetition then makes a new Event).
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from raykube.base.clock import rfc3339
from raykube.base.ids import fnv32a
from raykube.client.core.eventlimits import EventLimits

Object = dict[str, Any]

COMBINED = "(combined from similar events): "


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
    """Of messages that are combined it has none but COMBINED."""

    reference: Reference
    type: str
    reason: str
    message: str


@dataclass
class _Known:
    namespace: str
    name: str
    count: int


class _Waiting(NamedTuple):
    """A happening that is not written yet."""

    message: str
    times: int
    first: float
    last: float


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
        self._pending: OrderedDict[Happening, _Waiting] = OrderedDict()
        self._limits = EventLimits()
        self._known: OrderedDict[Happening, _Known] = OrderedDict()
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._pending)

    def note(self, reference: Reference, event_type: str, reason: str, message: str, now: float) -> bool:
        """Takes in one happening; False when it is not written: too many wait, or its object has told too much."""
        # The revision does not make two happenings different.
        plain = reference._replace(resource_version="") if reference.resource_version else reference
        about = plain._replace(field_path="") if plain.field_path else plain
        text = message[:1024]
        if self._limits.is_one_of_many(about, (event_type, reason), text, now):
            key = Happening(about, event_type, reason, COMBINED)
            text = COMBINED + text
        else:
            key = Happening(plain, event_type, reason, text)
        waiting = self._pending.get(key)
        if waiting is not None:
            self._pending[key] = _Waiting(text, waiting.times + 1, waiting.first, now)
            return True
        if len(self._pending) >= self._pending_max:
            self.dropped += 1
            return False
        if not self._limits.may_write(about, now):
            known = self._known.get(key)
            if known is not None:
                known.count += 1
            return False
        self._pending[key] = _Waiting(text, 1, now, now)
        return True

    def flush(self, batch_max: int = 500) -> list[EventWrite]:
        """Takes up to `batch_max` waiting happenings out, as writes."""
        writes: list[EventWrite] = []
        while self._pending and len(writes) < batch_max:
            key, waiting = self._pending.popitem(last=False)
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                known.count += waiting.times
                body: Object = {"count": known.count, "lastTimestamp": rfc3339(waiting.last)}
                if key.message == COMBINED:
                    body["message"] = waiting.message
                writes.append(EventWrite(key, known.namespace, known.name, True, body))
            else:
                writes.append(self._create(key, waiting))
        return writes

    def forget(self, key: Happening) -> None:
        """The Event of `key` is gone (they expire), or could not be written: the next happening makes a new one."""
        self._known.pop(key, None)

    def _create(self, key: Happening, waiting: _Waiting) -> EventWrite:
        reference = key.reference
        text, count, first, last = waiting
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
            "message": text,
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
