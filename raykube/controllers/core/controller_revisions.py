"""ControllerRevisions: the pod templates that a DaemonSet or StatefulSet had, for roll-outs and `kubectl rollout undo`.

    ControllerRevision web-7c9d8f5b6c      owned by the set, labelled like its pods
      revision: 3                          numbers templates in the order in which they became the set's own
      data: {"spec": {"template": {..., "$patch": "replace"}}}

`data` is a strategic merge patch of the set: applying it is what an undo does. A revision whose data equals the set's
present patch is the set's update revision; going back to an old template gives the old revision a new number.
"""

from collections.abc import Container, Iterable, Sequence

import orjson

from raykube.base import ids
from raykube.controllers.core import kinds
from raykube.controllers.core.patches import create_write
from raykube.controllers.core.plan import Obj, Write

API_VERSION = "apps/v1"
POD_LABEL = "controller-revision-hash"  # on pods: a DaemonSet writes the hash, a StatefulSet the revision's name
HASH_LABEL = "controller.kubernetes.io/hash"  # on a StatefulSet's revisions
PREFIX_LENGTH_MAX = 223  # of the name, so that the hash fits in 253 characters
HISTORY_LIMIT = 10  # `revisionHistoryLimit` where none is set


def template_patch(owner: Obj) -> Obj:
    """The `data` of a revision: replaces the template of `owner` by its present one."""
    return {"spec": {"template": {**(owner["spec"].get("template") or {}), "$patch": "replace"}}}


def hash_of(data: Obj, collisions: int) -> str:
    """The hash in a revision's name: equal data have equal hashes, whatever the order of their fields.

    `collisions` (`status.collisionCount`, 0 where there is none) leads to another name where the first was taken."""
    text = orjson.dumps(data, option=orjson.OPT_SORT_KEYS)
    if collisions:
        text += str(collisions).encode()
    return ids.safe_encode(str(ids.fnv32a(text)))


def name_of(owner: Obj, hash_value: str) -> str:
    """The name of the revision of `owner` with this hash."""
    return f"{owner['metadata']['name'][:PREFIX_LENGTH_MAX]}-{hash_value}"


def create_revision(
    owner: Obj, reference: Obj, name: str, number: int, data: Obj, labels: dict[str, str], annotations: dict[str, str]
) -> Write:
    """Creates a revision; `reference` is the controller reference to `owner`."""
    metadata: Obj = {"name": name, "namespace": owner["metadata"].get("namespace", ""), "ownerReferences": [reference]}
    if labels:
        metadata["labels"] = dict(labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    body = {
        "apiVersion": API_VERSION,
        "kind": "ControllerRevision",
        "metadata": metadata,
        "data": data,
        "revision": number,
    }
    return create_write(kinds.CONTROLLER_REVISIONS, body)


def number_of(revision: Obj) -> int:
    """`revision`, 0 when it is missing."""
    return int(revision.get("revision") or 0)


def in_order(revisions: Iterable[Obj]) -> list[Obj]:
    """By number, then by age: the newest template last."""
    return sorted(revisions, key=_age)


def _age(revision: Obj) -> tuple[int, str, str]:
    meta = revision["metadata"]
    return (number_of(revision), meta.get("creationTimestamp") or "", meta["name"])


def next_number(revisions: Iterable[Obj]) -> int:
    """The number of a template that becomes the set's own now."""
    return max(map(number_of, revisions), default=0) + 1


def with_data(revisions: Iterable[Obj], data: Obj) -> list[Obj]:
    """The revisions that hold exactly `data`, the newest last."""
    return [revision for revision in in_order(revisions) if revision.get("data") == data]


def expired(revisions: Sequence[Obj], surplus: int, live: Container[str]) -> list[Obj]:
    """The oldest `surplus` revisions whose names are not in `live`; none when `surplus` is not above 0."""
    idle = [
        revision
        for revision in in_order(revisions)
        if revision["metadata"]["name"] not in live and not revision["metadata"].get("deletionTimestamp")
    ]
    return idle[: max(surplus, 0)]


def history_limit(owner: Obj) -> int:
    """`revisionHistoryLimit`."""
    limit = owner["spec"].get("revisionHistoryLimit")
    return HISTORY_LIMIT if limit is None else int(limit)
