"""One write, planned: an operation and the object as it is known → what to store, under which comparison.

    Operation ── plan(operation, current) ──► Plan(key, value, expected revision) ──► the store
                        ▲                                                              │
                        └────────────── the object as it really is ◄── comparison failed

The planner decides and never waits: what it misses it raises as `Missing`, what it refuses as `ApiError`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import orjson

from raykube.api import apply, defaults, meta, patch, schema, serialization, validation
from raykube.api.errors import ApiError, required
from raykube.api.resources import Resource, builtin
from raykube.apiserver.core import admission, conversion, pods, preparation, scaling, strategy
from raykube.apiserver.core.strategy import DeleteOptions, Draw, Object

CREATE, UPDATE, PATCH, DELETE, BIND = "create", "update", "patch", "delete", "bind"
JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH = "json", "merge", "strategic", "apply"


@dataclass(slots=True)
class Operation:
    """One write as a client asked for it. Bodies are decoded already; `body` belongs to the planner."""

    verb: str
    resource: Resource  # in the version that the client speaks
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    body: Any = None  # object, patch, or None
    patch_type: str = ""
    field_manager: str = ""
    force: bool = False
    dry_run: bool = False
    validation: str = "Warn"  # what unknown fields are: Strict errors, Warn warnings, Ignore nothing
    resource_version: str = ""  # precondition
    uid: str = ""  # precondition
    deletion: DeleteOptions | None = None
    node: str = ""  # bind
    pristine: bytes | None = None  # `body` as it came, once a plan has changed it
    guard: Callable[[Object | None, Object | None], None] | None = None  # may refuse (new, old) by raising ApiError
    warnings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Plan:
    """What to do for an operation. `value` None: delete the key. `write` False: nothing to store."""

    key: str
    value: bytes | None
    expected: int
    code: int
    reply: bytes  # the object as stored (without resourceVersion), or a complete answer
    complete: bool = False  # `reply` is the answer as it is: a Status, an object at a known revision
    write: bool = True
    retry_name: bool = False  # a taken name was ours: draw another
    created: bool = False


@dataclass(frozen=True, slots=True)
class Current:
    """The object as it is known: stored bytes with resourceVersion, and its revision."""

    data: bytes
    revision: int


class Planner:
    """Plans writes."""

    def __init__(
        self,
        view: admission.View,
        draw: Draw,
        tolerations: admission.DefaultTolerations = admission.DefaultTolerations(),  # noqa: B008  frozen
    ) -> None:
        self._tolerations = tolerations
        self._view = view
        self._draw = draw
        self._namespaces = builtin("v1", "Namespace")

    def plan(self, op: Operation, current: Current | None, now: float) -> Plan:
        """The plan for `op` when the object is `current` (None: there is none). Raises ApiError or Missing."""
        if op.verb == CREATE:
            return self._create(op, now)
        if op.verb == PATCH and op.patch_type == APPLY_PATCH and current is None and not op.subresource:
            if op.uid or op.resource_version:
                raise ApiError.not_found(op.resource, op.name)
            return self._apply_create(op, now)
        if op.verb == UPDATE and op.subresource != "scale":
            strategy.check_envelope(op.resource, op.body, op.namespace, op.name)
        if current is None:
            raise ApiError.not_found(op.resource, op.name)
        if op.verb == DELETE:
            return self._delete(op, current, now)
        if op.verb == BIND:
            return self._bind(op, current, now)
        return self._update(op, current, now)

    def key(self, op: Operation) -> str:
        """The store key of the operation's object; for a create after its name is known."""
        return conversion.stored(op.resource).key(op.namespace, op.name)

    # -- create

    def _create(self, op: Operation, now: float) -> Plan:
        resource, obj = op.resource, _take_body(op)
        strategy.check_envelope(resource, obj, op.namespace, "")
        generated = bool(obj["metadata"].get("generateName")) and not obj["metadata"].get("name")
        strategy.for_create(resource, obj, now, self._draw)
        op.name = obj["metadata"].get("name") or ""
        if op.field_manager and obj["metadata"].get("managedFields"):
            obj["metadata"].pop("managedFields")
        return self._finish_create(op, obj, generated)

    def _finish_create(self, op: Operation, obj: Object, generated: bool) -> Plan:
        resource = op.resource
        admission.namespace_lifecycle(resource, obj, self._namespaces, self._view)
        defaults.apply_defaults(resource, obj)
        preparation.prepare_create(resource, obj)
        if resource.plural == "pods" and not resource.group:
            admission.pod(resource, obj, self._view, self._draw, self._tolerations)
        elif not resource.group:
            admission.storage(resource, obj, self._view)
        if op.guard is not None:
            op.guard(obj, None)
        causes = validation.validate_create(resource, obj)
        if causes:
            raise ApiError.invalid(resource, op.name, causes)
        stored = conversion.stored(resource)
        value = meta.encode(conversion.convert(obj, resource, stored))
        return Plan(
            stored.key(op.namespace, op.name),
            value,
            0,
            201,
            value,
            write=not op.dry_run,
            retry_name=generated,
            created=True,
        )

    def _apply_create(self, op: Operation, now: float) -> Plan:
        applied = self._applied(op)
        strategy.check_envelope(op.resource, applied, op.namespace, op.name)
        self._conform(op, applied)
        obj = apply.apply(op.resource, None, applied, manager=op.field_manager, force=op.force, now=now)
        fields = obj["metadata"].get("managedFields")
        strategy.for_create(op.resource, obj, now, self._draw)
        if fields:
            obj["metadata"]["managedFields"] = fields
        return self._finish_create(op, obj, generated=False)

    def _applied(self, op: Operation) -> Object:
        if not op.field_manager:
            causes = [required("fieldManager", "is required for apply patch")]
            raise ApiError.invalid("PatchOptions.meta.k8s.io", "", causes)
        if not isinstance(op.body, dict):
            raise ApiError.bad_request("the apply patch must be an object")
        return _own(op.body)

    # -- update

    def _update(self, op: Operation, current: Current, now: float) -> Plan:
        resource = op.resource
        stored = conversion.stored(resource)
        old = conversion.convert(orjson.loads(current.data), stored, resource)
        old["metadata"].pop("resourceVersion", None)
        new = self._changed(op, old, current, now)
        metadata = new["metadata"]
        wanted = op.resource_version or str(metadata.get("resourceVersion") or "")
        if wanted and wanted != str(current.revision):
            raise stale(resource, op.name)
        if op.uid and op.uid != old["metadata"].get("uid"):
            strategy.check_preconditions(resource, old, current.revision, op.uid, "")
        if op.subresource in ("", "ephemeralcontainers", "resize"):
            defaults.apply_defaults(resource, new)
        strategy.for_update(resource, new, old, op.subresource)
        if op.guard is not None:
            op.guard(new, old)
        causes = validation.validate_update(resource, new, old, op.subresource)
        if causes:
            raise ApiError.invalid(resource, op.name, causes)
        return self._store_update(op, new, old, current)

    def _store_update(self, op: Operation, new: Object, old: Object, current: Current) -> Plan:
        stored = conversion.stored(op.resource)
        key = stored.key(op.namespace, op.name)
        value = meta.encode(conversion.convert(new, op.resource, stored))
        if strategy.is_finished(op.resource, new):
            return Plan(key, None, current.revision, 200, value, write=not op.dry_run)
        same = meta.with_resource_version(value, current.revision) == current.data or new == old
        return Plan(key, value, current.revision, 200, value, write=not (same or op.dry_run))

    def _changed(self, op: Operation, old: Object, current: Current, now: float) -> Object:
        """The new object that the client wants, before the server's rules."""
        resource = op.resource
        if op.subresource == "scale":
            return scaling.rescaled(resource, old, self._new_scale(op, old, current))
        if op.verb == UPDATE:
            obj = _take_body(op)
            strategy.check_envelope(resource, obj, op.namespace, op.name)
            if old["metadata"].get("managedFields") and op.field_manager:
                apply.track_update(resource, old, obj, manager=op.field_manager, now=now, subresource=op.subresource)
            return obj
        before = _own(old)
        if op.patch_type == APPLY_PATCH:
            applied = self._applied(op)
            strategy.check_envelope(resource, applied, op.namespace, op.name)
            self._conform(op, applied)
            return apply.apply(
                resource, before, applied, manager=op.field_manager, force=op.force, now=now, subresource=op.subresource
            )
        before["metadata"]["resourceVersion"] = str(current.revision)
        obj = patched(resource, before, op.patch_type, op.body)
        strategy.check_envelope(resource, obj, op.namespace, op.name)
        self._conform(op, obj)
        if old["metadata"].get("managedFields") and op.field_manager:
            apply.track_update(resource, old, obj, manager=op.field_manager, now=now, subresource=op.subresource)
        return obj

    def _new_scale(self, op: Operation, old: Object, current: Current) -> Object:
        scale = scaling.scale_of(op.resource, old, current.revision)
        if op.verb == UPDATE:
            given: Object = op.body
        else:
            given = patched(op.resource, scale, op.patch_type, op.body)
        version = str((given.get("metadata") or {}).get("resourceVersion") or "")
        if version and version != str(current.revision):
            raise stale(op.resource, op.name)
        return given

    # -- delete

    def _delete(self, op: Operation, current: Current, now: float) -> Plan:
        resource = op.resource
        options = op.deletion or DeleteOptions()
        stored = conversion.stored(resource)
        old = orjson.loads(current.data)
        version = options.resource_version or op.resource_version
        strategy.check_preconditions(resource, old, current.revision, options.uid or op.uid, version)
        if op.guard is not None:
            op.guard(None, old)
        deletion = strategy.for_delete(resource, old, options, now)
        key = stored.key(op.namespace, op.name)
        dry = op.dry_run or options.dry_run
        if deletion.marked is None:
            if strategy.returns_deleted(resource):
                old["metadata"].pop("resourceVersion", None)
                return Plan(key, None, current.revision, 200, meta.encode(old), write=not dry)
            status = orjson.dumps(strategy.success(resource, op.name, old["metadata"].get("uid", "")))
            return Plan(key, None, current.revision, 200, status, complete=True, write=not dry)
        deletion.marked["metadata"].pop("resourceVersion", None)
        value = meta.encode(deletion.marked)
        return Plan(key, value, current.revision, 200, value, write=not (dry or deletion.unchanged))

    # -- bind

    def _bind(self, op: Operation, current: Current, now: float) -> Plan:
        pod = orjson.loads(current.data)
        if op.uid or op.resource_version:
            strategy.check_preconditions(op.resource, pod, current.revision, op.uid, op.resource_version)
        pods.bind(op.resource, pod, op.node, op.body, now)
        del pod["metadata"]["resourceVersion"]
        value = meta.encode(pod)
        return Plan(op.resource.key(op.namespace, op.name), value, current.revision, 201, value, write=not op.dry_run)

    def _conform(self, op: Operation, obj: Object) -> None:
        """A patched object, decoded as a body would have been: types, unknown fields."""
        if op.patch_type == APPLY_PATCH:
            apply.check_declared(op.resource, obj)
        try:
            problems = schema.conform(op.resource, obj)
            if problems and op.validation == "Strict":
                raise serialization.strict_error(op.resource, problems)
        except ApiError as error:
            if op.patch_type == APPLY_PATCH:
                raise
            raise patch.undecodable(op.resource, op.body if op.patch_type == STRATEGIC_PATCH else obj, error) from None
        if op.validation == "Warn":
            op.warnings.extend(problems)


def _take_body(op: Operation) -> Object:
    """The operation's body, to be changed; a second attempt gets it as it came."""
    if op.pristine is None:
        op.pristine = orjson.dumps(op.body)
    else:
        op.body = orjson.loads(op.pristine)
    body: Object = op.body
    return body


def _own(obj: Object) -> Object:
    """A private copy: JSON there and back is three times as fast as deepcopy."""
    copy: Object = orjson.loads(orjson.dumps(obj))
    return copy


def patched(resource: Resource, obj: Object, patch_type: str, body: Any) -> Object:
    """`obj` with a patch applied. Raises ApiError."""
    if patch_type == JSON_PATCH:
        return patch.json_patch(obj, body)
    if patch_type == MERGE_PATCH:
        return patch.merge_patch(obj, body)
    return patch.strategic_merge(resource, obj, body)


def stale(resource: Resource, name: str) -> ApiError:
    """409: the object changed since the client read it."""
    return ApiError.conflict(resource, name)
