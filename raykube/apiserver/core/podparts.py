"""A stored pod in parts: what a binding or a status leaves as it is is not parsed, nor encoded again.

    {"kind":"Pod","apiVersion":"v1","metadata":{…}   ,"spec":   {…}   ,"status":   {"phase":…}   }
    └─ head: read as the envelope                               spec              status

Why `status` is the pod's own where it is found so says `api/podtext.py`; a stored pod has no other fields. What is laid
out otherwise takes the planner's long way.
"""

from typing import NamedTuple

import orjson

from raykube.apiserver.core.item import without_resource_version
from raykube.apiserver.core.strategy import Object

_SPEC = b',"spec":'
_STATUS = b'},"status":'
_PHASE = b'{"phase":"'


class PodParts(NamedTuple):
    """A stored pod, cut."""

    head: bytes
    envelope: Object  # kind, apiVersion and metadata
    spec: bytes
    status: bytes  # and what follows it, which is no JSON then

    def joined(self, spec: bytes, status: bytes) -> bytes:
        """The bytes to store for this pod with these parts."""
        return b'%b,"spec":%b,"status":%b}' % (without_resource_version(self.head), spec, status)


def parts(data: bytes) -> PodParts | None:
    """A pod's bytes in parts; None where they are not laid out so."""
    start, end = data.find(_SPEC + b"{"), data.rfind(_STATUS + _PHASE)
    if not 0 < start < end:
        return None
    head = data[:start]
    try:
        # Only what ends at the object's own depth can be closed by one brace.
        envelope = orjson.loads(head + b"}")
    except orjson.JSONDecodeError:
        return None
    if not isinstance(envelope.get("metadata"), dict):
        return None
    return PodParts(head, envelope, data[start + len(_SPEC) : end + 1], data[end + len(_STATUS) : -1])
