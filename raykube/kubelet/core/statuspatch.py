"""What is written of a status: the difference to what the apiserver has, as a strategic merge patch.

Others have conditions of their own in the status of a pod or a node (readiness gates, a drain's DisruptionTarget, a
network's), and may have written one that is not seen here yet. So a patch names only the conditions that it means.
"""

from typing import Any

from raykube.kubelet.core.pod import Object

REPLACE: Object = {"$patch": "replace"}
_WHOLE = ("podIPs", "hostIPs", "resourceClaimStatuses", "addresses")  # lists that would be merged item by item


def status_patch(old: Object, new: Object) -> Object:
    """The patch that turns status `old` into `new`; empty when they are alike."""
    patch: Object = {}
    for name, value in new.items():
        if name == "conditions":
            changes = _conditions(old.get(name) or [], value)
            if changes:
                patch[name] = changes
        elif old.get(name) != value:
            patch[name] = _field(name, old.get(name), value)
    return patch | {name: None for name in old if name not in new}


def _field(name: str, old: Any, new: Any) -> Any:
    if name in _WHOLE:
        return [REPLACE, *new]
    if isinstance(old, dict) and isinstance(new, dict):
        return new | {key: None for key in old if key not in new}
    return new


def _conditions(old: list[Object], new: list[Object]) -> list[Object]:
    before = {one["type"]: one for one in old}
    changes = []
    for one in new:
        known = before.pop(one["type"], {})
        if _told(known) != _told(one):
            changes.append({name: None for name in known if name not in one} | one)
    return changes + [{"$patch": "delete", "type": kind} for kind in before]


def _told(condition: Object) -> Object:
    """A null is not stored."""
    return {name: value for name, value in condition.items() if value is not None}


def alike(left: Object, right: Object) -> bool:
    """Whether two statuses say the same, in whatever order their conditions stand."""
    return left == right or not (status_patch(left, right) or status_patch(right, left))
