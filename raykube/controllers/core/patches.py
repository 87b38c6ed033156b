"""Writes in their smallest form: merge patches that say only what changed, and the writes that carry them."""

from typing import Any

from raykube.controllers.core.plan import Event, Obj, Write


def merge_diff(old: Any, new: Any) -> Any:
    """The RFC 7386 patch that turns `old` into `new`, both objects. {} when they are equal."""
    patch: dict[str, Any] = {}
    for field, value in new.items():
        if field not in old:
            patch[field] = value
        elif old[field] != value:
            before = old[field]
            patch[field] = merge_diff(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    for field in old:
        if field not in new:
            patch[field] = None
    return patch


def version_of(obj: Obj) -> int:
    """`metadata.resourceVersion` as a number; 0 when there is none."""
    return int(obj["metadata"].get("resourceVersion") or 0)


def uid_of(obj: Obj) -> str:
    """`metadata.uid`, "" when there is none."""
    return str(obj["metadata"].get("uid", ""))


def status_write(resource: str, obj: Obj, status: Obj) -> Write | None:
    """Sets `status` if it differs from the object's, provided that nobody has changed the object since."""
    patch = merge_diff(obj.get("status") or {}, status)
    if not patch:
        return None
    return patch_write(resource, obj, {"status": patch}, subresource="status")


def patch_write(
    resource: str,
    obj: Obj,
    body: Any,
    *,
    subresource: str = "",
    versioned: bool = True,
    done: Event | None = None,
    failed: Event | None = None,
) -> Write:
    """A merge patch of exactly this object (uid), and with `versioned` of exactly this state of it."""
    meta = obj["metadata"]
    return Write(
        "patch",
        resource,
        meta.get("namespace", ""),
        meta["name"],
        body,
        subresource=subresource,
        resource_version=version_of(obj) if versioned else 0,
        uid=uid_of(obj),
        done=done,
        failed=failed,
    )


def create_write(resource: str, body: Obj, *, done: Event | None = None, failed: Event | None = None) -> Write:
    """Creates `body`, whose metadata says where."""
    meta = body["metadata"]
    return Write("create", resource, meta.get("namespace", ""), meta["name"], body, done=done, failed=failed)


def delete_write(
    resource: str,
    obj: Obj,
    options: Obj | None = None,
    *,
    versioned: bool = False,
    done: Event | None = None,
    failed: Event | None = None,
) -> Write:
    """Deletes exactly this object."""
    meta = obj["metadata"]
    return Write(
        "delete",
        resource,
        meta.get("namespace", ""),
        meta["name"],
        options,
        uid=uid_of(obj),
        resource_version=version_of(obj) if versioned else 0,
        done=done,
        failed=failed,
    )
