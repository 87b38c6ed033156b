"""Upstream's answers for as long as they hold. Pure.

At the bound the answer goes that was not asked for longest.
"""

from collections import OrderedDict
from typing import NamedTuple

from raykube.dns.core.message import Body, Message
from raykube.dns.core.wire import CD, Query

CacheKey = tuple[bytes, int, bool, bool]  # name, type, with signatures, unchecked


def cache_key(query: Query) -> CacheKey:
    """Queries that have the same answer."""
    return query.key, query.type, query.dnssec_ok, bool(query.flags & CD)


class Entry(NamedTuple):
    """One answer, and since when until when it holds."""

    message: Message
    body: Body  # of the message, behind its question
    since: float
    until: float


class Cache:
    """At most `entries_max` answers."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._entries: OrderedDict[CacheKey, Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey, now: float) -> Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= now:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: CacheKey, entry: Entry) -> None:
        if self._entries_max <= 0:
            return
        self._entries[key] = entry
        self._entries.move_to_end(key)
        while len(self._entries) > self._entries_max:
            self._entries.popitem(last=False)
