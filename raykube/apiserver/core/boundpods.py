"""Binding pods: the node goes into the bytes of their spec, and what becomes of their status is known by its bytes.

    spec    {…}   ─►  {…,"nodeName":"n"}
    status  {"phase":"Pending","qosClass":"Burstable"}  ─►  the same, with a condition of this moment

Pods that nobody wrote about yet have few different statuses. What is not known for sure takes the planner's long way.
"""

import orjson

from raykube.api.errors import ApiError
from raykube.api.resources import Resource
from raykube.apiserver.core import pods
from raykube.apiserver.core.podparts import PodParts

KNOWN_MAX = 1024
STATUS_BYTES_MAX = 16_384
# Whoever has one of these cannot be bound; or it is the key of a label.
_FORBIDDING = (b'"nodeName"', b'"schedulingGates"')
# A private character of Unicode, which no name is made of.
_STAMP = "\ue000stamp"

Key = tuple[int, bytes]
Pieces = tuple[bytes, bytes]


class BoundPods:
    """What becomes of pods that are bound."""

    def __init__(self) -> None:
        self._known: dict[Key, Pieces | None] = {}

    def value(self, resource: Resource, pod: PodParts, node: str, stamp: str) -> bytes | None:
        """The bytes to store for the pod on `node`; None where that is not known."""
        metadata, spec = pod.envelope["metadata"], pod.spec
        if not node or "deletionTimestamp" in metadata or spec == b"{}" or any(each in spec for each in _FORBIDDING):
            return None
        pieces = self._pieces(resource, (metadata.get("generation") or 0, pod.status))
        if pieces is None:
            return None
        bound = b'%b,"nodeName":%b}' % (spec[:-1], orjson.dumps(node))
        return pod.joined(bound, b'%b"%b"%b' % (pieces[0], stamp.encode(), pieces[1]))

    def _pieces(self, resource: Resource, key: Key) -> Pieces | None:
        """The status of a bound pod in two, between which the time goes."""
        if key in self._known:
            return self._known[key]
        if len(key[1]) > STATUS_BYTES_MAX:
            return None
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        pieces = self._known[key] = _cut(resource, *key)
        return pieces


def _cut(resource: Resource, generation: int, status: bytes) -> Pieces | None:
    try:
        pod = {"metadata": {"name": "", "generation": generation}, "spec": {}, "status": orjson.loads(status)}
        pods.bind(resource, pod, "n", None, _STAMP)
    except (orjson.JSONDecodeError, ApiError):
        return None
    pieces = orjson.dumps(pod["status"]).split(orjson.dumps(_STAMP))
    return (pieces[0], pieces[1]) if len(pieces) == 2 else None
