"""What follows the watch of pods: no copy of the objects is kept, the slots are the copy.

As `raykube.client.core.listwatch` for the rest: state and live events without a gap, never back in time. Half of what a
watch tells are our own writes: those are known by their revisions, and not read.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import orjson

from raykube.client.core.listwatch import DELETED, Change, Key, Object, Request, Stale, WatchEvent, key_of
from raykube.hollow.core.pods import Pods


class Feed:
    """A `listwatch.Machine` that tells `Pods`, of a watch whose objects are `undecoded`."""

    def __init__(self, pods: Pods, now: Callable[[], float], changed: Callable[[], None]) -> None:
        self.objects: dict[Key, Object] = {}  # stays empty
        self.resource_version = 0
        self.synced = False
        self._pods = pods
        self._now = now
        self._changed = changed  # called after each batch
        self._found: set[Key] | None = None  # in the initial state that is being read
        self._relist = True

    def request(self) -> Request:
        """The watch to open now."""
        if self._relist:
            self._found = set()
            return Request(0, send_initial_events=True)
        return Request(self.resource_version, send_initial_events=False)

    def on_expired(self) -> None:
        """The next request asks for the whole state."""
        self._relist = True

    def on_events(self, events: Iterable[WatchEvent]) -> list[Change]:
        """Passes a batch on. Raises Stale when the state offered is older than what was seen."""
        now, pods = self._now(), self._pods
        for event in events:
            if self._found is not None:
                if event.initial_events_end:
                    self._end_of_state(event.resource_version)
                elif event.object is not None:
                    obj = orjson.loads(_text(event))
                    self._found.add(key_of(obj))
                    pods.on_pod(obj, now)
            elif event.resource_version > self.resource_version:
                self.resource_version = event.resource_version
                if event.object is None:
                    continue
                text = _text(event)
                if pods.is_own(event.resource_version, text, deleted=event.type == DELETED):
                    continue
                obj = orjson.loads(text)
                if event.type == DELETED:
                    pods.on_gone(key_of(obj))
                else:
                    pods.on_pod(obj, now)
        pods.on_followed(self.resource_version)
        self._changed()
        return []

    def _end_of_state(self, revision: int) -> None:
        found, self._found = self._found, None
        assert found is not None
        if revision < self.resource_version:
            raise Stale(f"offered revision {revision}, the pods are at {self.resource_version}")
        for key in [key for key in self._pods.keys if key not in found]:
            self._pods.on_gone(key)
        self.resource_version = revision
        self._pods.on_followed(revision, whole=True)
        self.synced = True
        self._relist = False


def undecoded(text: bytes) -> Any:
    """What the watch makes of a pod's JSON: the Feed reads of it what it has to."""
    return text


def _text(event: WatchEvent) -> bytes:
    return cast(bytes, event.object)
