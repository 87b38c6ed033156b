"""Server-side apply, and who manages which fields.

Vocabulary
- manager   whoever writes: a name with an operation (Apply or Update), an API version and a subresource.
- entry     one manager's row in `metadata.managedFields`: its identity, a time, and the set of fields it owns.
- applied   the part of an object that an applier wants to be so. What it applied before and now leaves out goes away,
            unless somebody else owns it too.
- conflict  a field that the applier would change and another manager owns. `force` takes it over.

Rules
- An Apply owns exactly what it last sent. An Update gains what it changes, and takes it from everyone else.
- Setting a field to the value it has is no change: then both own it.
- Identity (name, namespace, uid, times, …) belongs to nobody; the status is nobody's business on the main resource.

Times are given: `now` is in seconds since the epoch."""

from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from raykube.api import fieldsets
from raykube.api.errors import ApiError, Cause
from raykube.api.fieldsets import BadList, Fields
from raykube.api.schema import Typed
from raykube.api.shapes import Shape, root_shape
from raykube.base.clock import rfc3339

Object = dict[str, Any]

APPLY, UPDATE = "Apply", "Update"
BEFORE_FIRST_APPLY = "before-first-apply"
ANCIENT = "ancient-changes"
UPDATERS_MAX = 10
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

_CLIENT_SIDE = "kubectl"
_STRIPPED: Fields = {
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "clusterName",
            "generation",
            "managedFields",
            "resourceVersion",
        )
    ),
}
_LAST_APPLIED_PATH = ("f:metadata", "f:annotations", f"f:{LAST_APPLIED}")


class Target(Typed, Protocol):
    """What this needs to know of a resource."""

    @property
    def api_version(self) -> str: ...


@dataclass(slots=True)
class Entry:
    """One row of managedFields."""

    manager: str
    operation: str
    api_version: str
    subresource: str
    time: str
    fields: Fields

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Appliers are the same manager in every version; updaters are not."""
        version = "" if self.operation == APPLY else self.api_version
        return self.manager, self.operation, version, self.subresource

    def __str__(self) -> str:
        """As conflicts name it."""
        name = orjson.dumps(self.manager).decode()
        if self.subresource:
            name += f" with subresource {orjson.dumps(self.subresource).decode()}"
        return name if self.operation == APPLY else f"{name} using {self.api_version}"

    def to_dict(self) -> Object:
        entry = {
            "manager": self.manager,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": fieldsets.encode(self.fields),
            "subresource": self.subresource,
        }
        return {key: value for key, value in entry.items() if value != ""}


def apply(
    resource: Target,
    live: Object | None,
    applied: Object,
    *,
    manager: str,
    force: bool,
    now: float,
    subresource: str = "",
) -> Object:
    """`live` with `applied` merged in and what its manager dropped taken out; a new object with managedFields.

    Raises ApiError: 409 with a cause for every conflict, 400 or 500 for what cannot be applied."""
    if applied.get("metadata", {}).get("managedFields") is not None:
        raise ApiError.bad_request("metadata.managedFields must be nil")
    shape = root_shape(resource.group, resource.version, resource.kind)
    entries = _entries(live) if live else []
    before = _unmanaged(live or {})
    if live and not entries:
        fields = _trackable(fieldsets.owned(shape, before), subresource)
        entries = [Entry(BEFORE_FIRST_APPLY, UPDATE, resource.api_version, "", rfc3339(now), fields)]
    try:
        wanted = _trackable(fieldsets.owned(shape, applied, strict=True), subresource)
    except BadList as error:
        raise _untyped(resource, applied, str(error)) from None

    own = Entry(manager, APPLY, resource.api_version, subresource, rfc3339(now), wanted)
    previous = next((each for each in entries if each.identity == own.identity), None)
    others = [each for each in entries if each is not previous]
    after = _pruned(shape, fieldsets.merge(shape, before, applied), previous, own, others)
    after = {name: _without_nulls(each, applied.get(name)) for name, each in after.items()}
    changes = fieldsets.compare(shape, before, after)
    written = _trackable(changes.written, subresource)
    conflicts = [(entry, path) for entry in others for path in sorted(entry.fields & written, key=fieldsets.order)]
    if conflicts and not force:
        if manager == _CLIENT_SIDE and live:
            allowed = _own_client_side(shape, before)
            conflicts = [each for each in conflicts if each[1] not in allowed]
        if conflicts:
            raise _conflict_error(conflicts)
    for entry in others:
        entry.fields -= written | changes.removed
    if previous is not None and previous.fields == own.fields and after == before:
        own.time = previous.time
    if manager == _CLIENT_SIDE and LAST_APPLIED in (after.get("metadata", {}).get("annotations") or {}):
        _remember(after, applied)
    after["metadata"] = {**after.get("metadata", {}), "managedFields": _encoded([*others, own])}
    return after


def check_declared(resource: Target, applied: Object) -> None:
    """Raises upstream's 500 if `applied` has a field that its kind has not."""
    shape = root_shape(resource.group, resource.version, resource.kind)
    strangers = [fieldsets.text(path) for path in fieldsets.undeclared(shape, applied)]
    if strangers:
        lines = [f"{stranger}: field not declared in schema" for stranger in strangers]
        raise _untyped(
            resource, applied, lines[0] if len(lines) == 1 else "errors:\n" + "\n".join(f"  {x}" for x in lines)
        )


def _untyped(resource: Target, applied: Object, problem: str) -> ApiError:
    name, space = applied["metadata"].get("name", ""), applied["metadata"].get("namespace", "")
    where = f"{space}/{name}; {resource.api_version}, Kind={resource.kind}"
    return ApiError(500, "", f"failed to create typed patch object ({where}): {problem}")


def track_update(
    resource: Target, old: Object | None, new: Object, *, manager: str, now: float, subresource: str = ""
) -> None:
    """Writes down in `new` that `manager` changed what differs from `old`. Costs what the difference costs."""
    metadata = new.setdefault("metadata", {})
    given = metadata.get("managedFields")
    if given == [{}]:  # the one way to forget all owners
        del metadata["managedFields"]
        return
    shape = root_shape(resource.group, resource.version, resource.kind)
    stored = ((old or {}).get("metadata") or {}).get("managedFields") or []
    kept = given if given and given != stored and _well_formed(given) else stored
    changes = fieldsets.compare(shape, _unmanaged(old or {}), _unmanaged(new))
    written = _trackable(changes.written, subresource)
    removed = _trackable(changes.removed, subresource)
    if not written and not removed:
        _restore(metadata, kept)
        return
    entries = _entries({"metadata": {"managedFields": kept}})
    for entry in entries:
        entry.fields -= written | removed
    if written:
        own = Entry(manager, UPDATE, resource.api_version, subresource, rfc3339(now), written)
        previous = next((each for each in entries if each.identity == own.identity), None)
        if previous is None:
            entries.append(own)
        else:
            previous.fields |= written
            previous.time = own.time
    _restore(metadata, _encoded(_capped(entries)))


def _restore(metadata: Object, entries: list[Object]) -> None:
    if entries:
        metadata["managedFields"] = entries
    else:
        metadata.pop("managedFields", None)


def _well_formed(entries: Any) -> bool:
    return isinstance(entries, list) and all(
        isinstance(each, dict)
        and each.get("operation") in (APPLY, UPDATE)
        and each.get("fieldsType") == "FieldsV1"
        and isinstance(each.get("fieldsV1"), dict)
        for each in entries
    )


def _entries(obj: Object) -> list[Entry]:
    found: dict[tuple[str, str, str, str], Entry] = {}
    for each in obj["metadata"].get("managedFields") or ():
        entry = Entry(
            each.get("manager", ""),
            each.get("operation", UPDATE),
            each.get("apiVersion", ""),
            each.get("subresource", ""),
            each.get("time", ""),
            fieldsets.decode(each.get("fieldsV1") or {}),
        )
        same = found.setdefault(entry.identity, entry)
        if same is not entry:
            same.fields |= entry.fields
            same.time = max(same.time, entry.time)
    return list(found.values())


def _encoded(entries: list[Entry]) -> list[Object]:
    rows = [each for each in entries if each.fields]
    rows.sort(key=lambda each: (each.operation, each.time, each.manager, each.api_version, each.subresource))
    return [each.to_dict() for each in rows]


def _capped(entries: list[Entry]) -> list[Entry]:
    """At most UPDATERS_MAX updaters: the oldest of a version become one."""
    updaters = sorted(
        (each for each in entries if each.operation == UPDATE and each.fields),
        key=lambda each: (each.time, each.manager),
    )
    surplus = updaters[: max(0, len(updaters) - UPDATERS_MAX + 1)] if len(updaters) > UPDATERS_MAX else []
    if not surplus:
        return entries
    kept = [each for each in entries if each not in surplus]
    buckets: dict[str, Entry] = {}
    for each in surplus:
        bucket = buckets.setdefault(each.api_version, Entry(ANCIENT, UPDATE, each.api_version, "", each.time, set()))
        bucket.fields |= each.fields
        bucket.time = max(bucket.time, each.time)
    return [*kept, *buckets.values()]


def _unmanaged(obj: Object) -> Object:
    """`obj` without managedFields and resourceVersion, sharing the rest."""
    metadata = obj.get("metadata")
    if not metadata:
        return obj
    kept = {key: value for key, value in metadata.items() if key not in ("managedFields", "resourceVersion")}
    return {**obj, "metadata": kept}


def _trackable(fields: Fields, subresource: str) -> Fields:
    """What a writer through this door can own: the status only through `status`, and there nothing else."""
    if subresource == "status":
        return {path for path in fields if path[:1] == ("f:status",)}
    return {path for path in fields if path[:1] != ("f:status",)} - _STRIPPED


def _pruned(shape: Shape, merged: Object, previous: Entry | None, own: Entry, others: list[Entry]) -> Object:
    """`merged` without what the applier owned, no longer wants, and nobody else owns."""
    if previous is None or not previous.fields:
        return merged
    managed = set(own.fields)
    for entry in others:
        managed |= entry.fields
    gone = fieldsets.with_parents(shape, previous.fields) - fieldsets.with_parents(shape, managed)
    gone -= _STRIPPED
    if not gone:
        return merged
    left: Object = fieldsets.without(shape, merged, fieldsets.encode(gone)) or {}
    return left


def _without_nulls(value: Any, applied: Any) -> Any:
    """A null that was applied takes the field away."""
    if not isinstance(value, dict) or not isinstance(applied, dict):
        return value
    return {
        name: _without_nulls(each, applied.get(name))
        for name, each in value.items()
        if each is not None or name not in applied
    }


def _own_client_side(shape: Shape, live: Object) -> Fields:
    """What `kubectl apply` set and still is so: its server-side self may take that over from its client-side self."""
    text = (live.get("metadata", {}).get("annotations") or {}).get(LAST_APPLIED)
    try:
        last = orjson.loads(text) if text else None
    except orjson.JSONDecodeError:
        last = None
    if not isinstance(last, dict):
        return set()
    changes = fieldsets.compare(shape, last, live)
    return (fieldsets.owned(shape, last) - changes.written - changes.removed) | {_LAST_APPLIED_PATH}


def _remember(after: Object, applied: Object) -> None:
    """Keeps the annotation of client-side apply in step, so that a user can go back to it."""
    kept = {**applied, "metadata": dict(applied.get("metadata", {}))}
    annotations = {
        key: value for key, value in (kept["metadata"].get("annotations") or {}).items() if key != LAST_APPLIED
    }
    kept["metadata"]["annotations"] = annotations
    metadata = after["metadata"]
    text = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE).decode()
    after["metadata"] = {**metadata, "annotations": {**metadata["annotations"], LAST_APPLIED: text}}


def _conflict_error(conflicts: list[tuple[Entry, fieldsets.Path]]) -> ApiError:
    causes = [
        Cause("FieldManagerConflict", f"conflict with {entry}", fieldsets.text(path)) for entry, path in conflicts
    ]
    if len(conflicts) == 1:
        message = f"Apply failed with 1 conflict: conflict with {conflicts[0][0]}: {fieldsets.text(conflicts[0][1])}"
        return ApiError.apply_conflict(causes, message)
    lines = []
    for name in sorted({str(entry) for entry, _ in conflicts}):
        lines.append(f"conflicts with {name}:")
        lines.extend(f"- {fieldsets.text(path)}" for entry, path in conflicts if str(entry) == name)
    return ApiError.apply_conflict(causes, f"Apply failed with {len(conflicts)} conflicts: " + "\n".join(lines))
