"""Who owns what: a set's children are those that its controller reference and its selector both name.

A child that matches the selector and has no controller is adopted; one that is controlled but matches no longer is
released. Both are writes of their own, and neither child counts before (after) its write has landed.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from raykube.api.selectors import LabelSelector
from raykube.controllers.core import indexes, kinds
from raykube.controllers.core.patches import patch_write, uid_of
from raykube.controllers.core.plan import Obj, View, Write, key_of


def reference_to(owner: Obj, api_version: str, kind: str) -> Obj:
    """The controller reference that children of `owner` carry."""
    meta = owner["metadata"]
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": meta["name"],
        "uid": uid_of(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controller_reference(obj: Obj) -> Obj | None:
    """The owner reference that says `controller: true`."""
    for reference in obj["metadata"].get("ownerReferences") or ():
        if reference.get("controller"):
            found: Obj = reference
            return found
    return None


def labels_of(obj: Obj) -> dict[str, str]:
    """`metadata.labels`, {} when there are none."""
    return obj["metadata"].get("labels") or {}


def selector_of(resource: str, owner: Obj) -> Obj:
    """The label selector of a set; a ReplicationController's is written as labels."""
    selector: Obj = (owner.get("spec") or {}).get("selector") or {}
    return {"matchLabels": selector} if resource == kinds.REPLICATION_CONTROLLERS else selector


def is_empty(selector: Any) -> bool:
    """Whether a label selector names nothing: controllers select nothing with it, rather than everything."""
    return not selector or not (selector.get("matchLabels") or selector.get("matchExpressions"))


def selected(view: View, resource: str, namespace: str, selector: Obj, prefix: str = "") -> Iterable[Obj]:
    """Objects of a namespace that match `selector`, through the shortest list of the label index `prefix`label."""
    candidates: Sequence[Obj] | None = None
    for name, value in (selector.get("matchLabels") or {}).items():
        found = view.by_index(resource, f"{prefix}label", indexes.label_value(namespace, name, value))
        if candidates is None or len(found) < len(candidates):
            candidates = found
    if candidates is None:
        candidates = view.by_index(resource, "orphan" if prefix else "namespace", namespace)
    if not candidates:
        return ()
    matcher = LabelSelector.from_object(selector)
    return [candidate for candidate in candidates if matcher.matches(labels_of(candidate))]


def claim(
    view: View,
    resource: str,
    owner: Obj,
    reference: Obj,
    selector: Obj,
    finalizer: str = "",
    accepts: Callable[[Obj], bool] = lambda child: True,
    children: Sequence[Obj] | None = None,
) -> tuple[list[Obj], list[Write]]:
    """The children of `owner`, and the writes that adopt (with `finalizer`, when given) and release others.

    A child has to be one that `accepts` takes too, as if that were part of the selector. `children`: those that it
    controls and that count; all of them when not given."""
    meta = owner["metadata"]
    writes: list[Write] = []
    kept: list[Obj] = []
    if is_empty(selector):
        return kept, writes
    matcher = LabelSelector.from_object(selector)
    deleting = bool(meta.get("deletionTimestamp"))
    for child in view.by_index(resource, "controller", uid_of(owner)) if children is None else children:
        if matcher.matches(labels_of(child)) and accepts(child):
            kept.append(child)
        elif not deleting and not child["metadata"].get("deletionTimestamp"):
            writes.append(release(resource, child, uid_of(owner)))
    if deleting:
        return kept, writes
    orphans = selected(view, resource, meta.get("namespace", ""), selector, prefix="orphan-")
    alive = [orphan for orphan in orphans if not orphan["metadata"].get("deletionTimestamp") and accepts(orphan)]
    return kept, writes + [adopt(resource, orphan, reference, finalizer) for orphan in alive]


def adopt(resource: str, orphan: Obj, reference: Obj, finalizer: str = "") -> Write:
    """Gives `orphan` the owner of `reference`, and `finalizer` when given."""
    changed: Obj = {"ownerReferences": [*(orphan["metadata"].get("ownerReferences") or ()), reference]}
    present = orphan["metadata"].get("finalizers") or []
    if finalizer and finalizer not in present:
        changed["finalizers"] = [*present, finalizer]
    return patch_write(resource, orphan, {"metadata": changed})


def release(resource: str, child: Obj, owner_uid: str) -> Write:
    """Takes the owner off a child that it no longer selects."""
    kept = [ref for ref in child["metadata"].get("ownerReferences") or () if ref.get("uid") != owner_uid]
    return patch_write(resource, child, {"metadata": {"ownerReferences": kept or None}})


def keys_of_owners(view: View, owners: str, kind: str, old: Obj | None, new: Obj | None) -> set[str]:
    """The keys of the sets that a change of a child concerns: its controllers, and all that could adopt it."""
    if old is not None and new is not None:
        after = controller_reference(new)
        same = old["metadata"].get("ownerReferences") == new["metadata"].get("ownerReferences")
        before = after if same else controller_reference(old)
        if before == after:
            if after is None and labels_of(old) == labels_of(new):
                return set()  # nobody adopted it before and nothing that decides adoption has changed
            return _owners_of(view, owners, kind, new)
        return _owners_of(view, owners, kind, new) | _owners_of(view, owners, kind, old)
    child = new or old
    return _owners_of(view, owners, kind, child) if child else set()


def _owners_of(view: View, owners: str, kind: str, child: Obj) -> set[str]:
    namespace = child["metadata"].get("namespace", "")
    reference = controller_reference(child)
    if reference is not None:
        return {f"{namespace}/{reference['name']}"} if reference.get("kind") == kind else set()
    labels = labels_of(child)
    if not labels or child["metadata"].get("deletionTimestamp"):
        return set()
    keys = set()
    for owner in view.by_index(owners, "namespace", namespace):
        selector = selector_of(owners, owner)
        if not is_empty(selector) and LabelSelector.from_object(selector).matches(labels):
            keys.add(key_of(owner))
    return keys
