"""What selectors ask of the items of one resource: labels and fields, read when somebody asks, and kept once for all
items for which they are equal."""

from collections.abc import Iterable
from typing import Any

import orjson

from raykube.api import podtext
from raykube.api.resources import Resource
from raykube.api.selectors import selectable_fields

Texts = dict[str, str]

# Different labels, or fields, that are known at a time. Items keep theirs when the table begins anew.
SHARED_MAX = 65_536


class Fields:
    """Reads selectable fields and labels off a resource's stored bytes. Nobody may change what it returns."""

    __slots__ = ("_finders", "_shared", "resource")

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self._finders = podtext.FINDERS if resource.qualified == "pods" else {}
        self._shared: dict[tuple[tuple[str, str], ...], Texts] = {}

    def read(self, data: bytes, known: Texts, names: Iterable[str]) -> Texts:
        """`known`, the fields `names` beside it, and those that cost next to nothing."""
        found = dict(known)
        if not known:
            for name, find in self._finders.items():
                value = find(data)
                if value is not None:
                    found[name] = value
        unread = [name for name in names if name not in found]
        if unread:
            found |= selectable_fields(self.resource, orjson.loads(data), unread)
        return self._share(found)

    def labels(self, data: bytes) -> Texts:
        """The labels."""
        obj: dict[str, Any] = orjson.loads(data)
        return self._share(obj["metadata"].get("labels") or {})

    def _share(self, texts: Texts) -> Texts:
        key = tuple(texts.items())
        shared = self._shared.get(key)
        if shared is None:
            if len(self._shared) >= SHARED_MAX:
                self._shared.clear()
            shared = self._shared[key] = texts
        return shared
