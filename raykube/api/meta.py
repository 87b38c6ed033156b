"""Objects as stored, and what every object has: metadata, owners, conditions.

Objects are plain dicts. The stored form is one run of JSON bytes, keys ordered `kind`, `apiVersion`, `metadata`, then
the rest, without `metadata.resourceVersion`: that is the revision of the key, and readers splice it in:

    {"kind":"Pod","apiVersion":"v1","metadata":{"name":"x"},…}      as stored
    {"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7","name":"x"},…}   as handed out

Neither kind nor apiVersion can hold the text `"metadata":{`, so the first occurrence is the object's own.
"""

from typing import Any

import orjson

from raykube.base.clock import rfc3339

Object = dict[str, Any]

_HEAD = ("kind", "apiVersion", "metadata")
_METADATA = b'"metadata":{'


def encode(obj: Object) -> bytes:
    """An object → its stored bytes. The object is not changed."""
    metadata = obj.get("metadata") or {}
    if "resourceVersion" in metadata:
        metadata = {key: value for key, value in metadata.items() if key != "resourceVersion"}
    stored: Object = {"kind": obj["kind"], "apiVersion": obj["apiVersion"], "metadata": metadata}
    for key, value in obj.items():
        if key not in _HEAD:
            stored[key] = value
    return orjson.dumps(stored)


def decode(data: bytes) -> Object:
    obj: Object = orjson.loads(data)
    return obj


def with_resource_version(data: bytes, revision: int) -> bytes:
    """Stored bytes → bytes for a client, whose `metadata.resourceVersion` is `revision`. No parse."""
    at = data.index(_METADATA) + len(_METADATA)
    comma = b"" if data[at : at + 1] == b"}" else b","
    return b'%b"resourceVersion":"%d"%b%b' % (data[:at], revision, comma, data[at:])


def decode_at(data: bytes, revision: int) -> Object:
    """Stored bytes → the object with its resourceVersion."""
    obj: Object = orjson.loads(data)
    obj["metadata"]["resourceVersion"] = str(revision)
    return obj


def name(obj: Object) -> str:
    return str(obj.get("metadata", {}).get("name") or "")


def namespace(obj: Object) -> str:
    """ "" for a cluster-scoped object."""
    return str(obj.get("metadata", {}).get("namespace") or "")


def uid(obj: Object) -> str:
    return str(obj.get("metadata", {}).get("uid") or "")


def key(obj: Object) -> str:
    """`namespace/name`, or the name alone: what work queues hold."""
    space = namespace(obj)
    return f"{space}/{name(obj)}" if space else name(obj)


def split_key(text: str) -> tuple[str, str]:
    """`namespace/name` → both; a bare name has namespace ""."""
    space, _, own = text.rpartition("/")
    return space, own


def labels(obj: Object) -> dict[str, str]:
    return obj.get("metadata", {}).get("labels") or {}


def annotations(obj: Object) -> dict[str, str]:
    return obj.get("metadata", {}).get("annotations") or {}


def finalizers(obj: Object) -> list[str]:
    return obj.get("metadata", {}).get("finalizers") or []


def resource_version(obj: Object) -> str:
    return str(obj.get("metadata", {}).get("resourceVersion") or "")


def owner_references(obj: Object) -> list[Object]:
    return obj.get("metadata", {}).get("ownerReferences") or []


def owner_reference(owner: Object, controller: bool = True) -> Object:
    """A reference to `owner` for its dependents' metadata; with `controller`, the one that manages them."""
    reference: Object = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    if controller:
        reference["controller"] = True
        reference["blockOwnerDeletion"] = True
    return reference


def controller_of(obj: Object) -> Object | None:
    """The owner reference that manages this object, if any."""
    return next((each for each in owner_references(obj) if each.get("controller")), None)


def condition(obj: Object, type_: str) -> Object | None:
    """The condition of this type in the object's status."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((each for each in conditions if each.get("type") == type_), None)


def condition_true(obj: Object, type_: str) -> bool:
    found = condition(obj, type_)
    return found is not None and found.get("status") == "True"


def set_condition(conditions: list[Object], new: Object, now: float) -> bool:
    """Puts `new` in the list by its type; `lastTransitionTime` moves only when the status does. True if it changed."""
    for index, old in enumerate(conditions):
        if old.get("type") != new["type"]:
            continue
        merged = {**old, **new}
        if old.get("status") != new.get("status"):
            merged["lastTransitionTime"] = new.get("lastTransitionTime") or rfc3339(now)
        elif "lastTransitionTime" in old:
            merged["lastTransitionTime"] = old["lastTransitionTime"]
        if merged == old:
            return False
        conditions[index] = merged
        return True
    conditions.append({"lastTransitionTime": rfc3339(now), **new})
    return True


def remove_condition(conditions: list[Object], type_: str) -> bool:
    """Takes a condition out of the list. True if it was there."""
    kept = [each for each in conditions if each.get("type") != type_]
    changed = len(kept) != len(conditions)
    conditions[:] = kept
    return changed
