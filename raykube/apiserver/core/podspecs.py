"""Pods of one template: a spec is decoded, defaulted, admitted and validated once, then known by its bytes.

    body ──► Draft(object, spec's bytes) ──► known? ──► metadata of its own + what became of such a spec
                                               │
                                               └─ no: the planner's long way, and `learn` from what it made

Known is a spec in a namespace, as long as nothing changes that admission looks at (`version`). Only what went well is
learnt: a refusal finds its words anew each time. What differs from pod to pod is not part of it: the metadata, and the
drawn name of the volume with the ServiceAccount's token, at which the bytes are cut.
"""

from typing import NamedTuple

import orjson

from raykube.api import schema
from raykube.api.resources import Resource
from raykube.apiserver.core.admission import MIRROR, TOKEN_VOLUME, token_volume
from raykube.apiserver.core.strategy import Draw, Object

KNOWN_MAX = 1024
SPEC_BYTES_MAX = 16_384
_PARTS = {"kind", "apiVersion", "metadata", "spec"}
_HEAD = b'{"kind":"Pod","apiVersion":"v1","metadata":'
_TOKEN_VOLUME = TOKEN_VOLUME.encode()

Key = tuple[str, bytes]
Pieces = tuple[bytes, ...]


class Draft(NamedTuple):
    """A new pod whose metadata conforms; its spec may be anything."""

    obj: Object
    key: Key


def draft(resource: Resource, data: bytes, namespace: str) -> Draft | None:
    """The pod in a request's body; None where there is more to it than metadata and a spec."""
    try:
        obj = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(obj, dict) or obj.keys() != _PARTS or obj["kind"] != "Pod" or obj["apiVersion"] != "v1":
        return None
    metadata, spec = obj["metadata"], obj["spec"]
    if not isinstance(spec, dict) or not schema.conforms(resource, "metadata", metadata):
        return None
    if MIRROR in metadata.get("annotations", ()):
        return None  # admission knows it from others
    key = orjson.dumps(spec)
    return Draft(obj, (namespace, key)) if len(key) <= SPEC_BYTES_MAX else None


class PodSpecs:
    """The specs that are known. A spec that comes once is remembered, one that comes again is learnt."""

    def __init__(self) -> None:
        self._version = 0
        self._known: dict[Key, Pieces | None] = {}

    def find(self, key: Key, version: int) -> Pieces | None:
        """What became of such a spec, for `encoded`."""
        if version != self._version:
            self._known.clear()
            self._version = version
        return self._known.get(key)

    def learn(self, key: Key, obj: Object, value: bytes) -> None:
        """A pod of such a spec became `obj`, encoded as `value`; `find` was asked for it just now."""
        if key not in self._known:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[key] = None
            return
        head = _HEAD + orjson.dumps(obj["metadata"])
        if value.startswith(head) and _TOKEN_VOLUME not in key[1]:
            self._known[key] = _cut(value[len(head) :], obj["spec"])


def _cut(tail: bytes, spec: Object) -> Pieces:
    """`tail` in pieces, between which the name of the token's volume stood."""
    names = [each["name"] for each in spec.get("volumes") or () if each["name"].startswith(TOKEN_VOLUME)]
    return tuple(tail.split(orjson.dumps(names[0]))) if names else (tail,)


def encoded(metadata: Object, pieces: Pieces, draw: Draw) -> bytes:
    """The stored bytes of a pod with this metadata."""
    tail = orjson.dumps(token_volume(draw)).join(pieces) if len(pieces) > 1 else pieces[0]
    return _HEAD + orjson.dumps(metadata) + tail
