"""What a watch cache holds: one object at one revision, and the writes that led from one to the next."""

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from raykube.api import meta
from raykube.api.meta import with_resource_version
from raykube.apiserver.core.fields import Fields, Texts

_UNREAD: Texts = {}


class Item:
    """One object at one revision. There are as many as objects: it holds its bytes, and little else of its own."""

    __slots__ = ("_fields", "_labels", "_parsed", "data", "forms", "key", "revision")

    def __init__(self, key: str, revision: int, data: bytes) -> None:
        self.key = key  # "namespace/name", or "name" where there are no namespaces
        self.revision = revision
        self.data = data
        self.forms: dict[object, bytes] | None = None  # other encodings (other versions), made on demand
        self._labels: Texts | None = None
        self._fields = _UNREAD
        self._parsed: dict[str, Any] | None = None

    def labels(self, known: Fields) -> Texts:
        """Its labels, shared with items that have the same."""
        if self._labels is None:
            self._labels = known.labels(self.data)
        return self._labels

    def fields(self, known: Fields, names: Iterable[str]) -> Texts:
        """Selectable fields, these and perhaps others, shared with items that have the same."""
        found = self._fields
        for name in names:
            if name not in found:
                found = self._fields = known.read(self.data, found, names)
                break
        return found

    def parsed(self) -> dict[str, Any]:
        """The whole object, kept: for the few kinds that admission looks at all the time. Not to be changed."""
        if self._parsed is None:
            self._parsed = orjson.loads(self.data)
        return self._parsed

    def decode(self) -> dict[str, Any]:
        """The whole object, parsed for the caller, who may change it."""
        obj: dict[str, Any] = orjson.loads(self.data)
        return obj

    def is_same_object(self, other: "Item") -> bool:
        """Whether `other`, with the same key, is this object at another revision, and not another one of its name."""
        return self.revision == other.revision or meta.uid(self.decode()) == meta.uid(other.decode())

    def form(self, key: object, make: Callable[[bytes], bytes]) -> bytes:
        """Another encoding of this item, made once."""
        if self.forms is None:
            self.forms = {}
        found = self.forms.get(key)
        if found is None:
            found = self.forms[key] = make(self.data)
        return found

    @property
    def namespace(self) -> str:
        namespace, slash, _ = self.key.partition("/")
        return namespace if slash else ""

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


class Change:
    """One write of the resource. `size`: about how many bytes whoever keeps it holds, as the last one perhaps."""

    __slots__ = ("_departed", "after", "before", "key", "revision", "size")

    def __init__(self, revision: int, key: str, before: Item | None, after: Item | None) -> None:
        self.revision = revision
        self.key = key
        self.before = before
        self.after = after
        self._departed: Item | None = None
        item = after or before
        self.size = 0 if item is None else len(item.data)

    def departed(self) -> Item:
        """The item before, at this change's revision: what a DELETED event carries."""
        if self._departed is None:
            assert self.before is not None
            data = with_resource_version(without_resource_version(self.before.data), self.revision)
            self._departed = Item(self.key, self.revision, data)
        return self._departed


_VERSION_MARK = b'"metadata":{"resourceVersion":"'
_BARE_MARK = b'"metadata":{'


def without_resource_version(data: bytes) -> bytes:
    """Undoes `with_resource_version`."""
    start = data.find(_VERSION_MARK)
    if start < 0:
        return data
    end = data.index(b'"', start + len(_VERSION_MARK)) + 1
    if data[end : end + 1] == b",":
        end += 1
    return data[: start + len(_BARE_MARK)] + data[end:]
