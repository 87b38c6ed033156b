"""How much one object may have told of it, as upstream's event correlator has it: a ReplicaSet of ten thousand pods is
no reason to write ten thousand Events.

    similar   alike but for their message: from the tenth message within ten minutes on they are one Event that counts;
              nine messages are known, each of which has an Event of its own, the newest in the place of the one before
    burst     25 writes about an object at once, then one every five minutes

Remembered are so many objects; the least recently told of are forgotten first.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

MESSAGES_MAX = 10
SIMILAR_S = 600.0
BURST = 25
REFILL_S = 300.0
OBJECTS_MAX = 4096


@dataclass(slots=True)
class _Similar:
    last: float
    messages: dict[str, None] = field(default_factory=dict)  # that are known, fewer than MESSAGES_MAX, as they came


@dataclass(slots=True)
class _Told:
    """What was told of one object."""

    at: float
    writes: float = BURST  # that are left at `at`
    similar: dict[tuple[str, str], _Similar] = field(default_factory=dict)  # by type and reason


class EventLimits:
    """`about` is whatever tells objects apart. Times are seconds that only grow."""

    def __init__(self, objects_max: int = OBJECTS_MAX) -> None:
        self._objects_max = objects_max
        self._told: OrderedDict[object, _Told] = OrderedDict()

    def is_one_of_many(self, about: object, kind: tuple[str, str], message: str, now: float) -> bool:
        """Whether this message goes into the Event of all that are similar. `kind`: type and reason."""
        similar = self._of(about, now).similar
        seen = similar.get(kind)
        if seen is None or now - seen.last > SIMILAR_S:
            seen = similar[kind] = _Similar(now)
        seen.last = now
        if message in seen.messages:
            return False
        many = len(seen.messages) == MESSAGES_MAX - 1
        if many:
            seen.messages.popitem()  # upstream forgets any of them: here those that came first stay
        seen.messages[message] = None
        return many

    def may_write(self, about: object, now: float) -> bool:
        """Takes one write about the object, if there is one left."""
        told = self._of(about, now)
        told.writes = min(BURST, told.writes + max(0.0, now - told.at) / REFILL_S)
        told.at = now
        if told.writes < 1:
            return False
        told.writes -= 1
        return True

    def _of(self, about: object, now: float) -> _Told:
        told = self._told.get(about)
        if told is not None:
            self._told.move_to_end(about)
            return told
        told = self._told[about] = _Told(now)
        if len(self._told) > self._objects_max:
            self._told.popitem(last=False)
        return told
