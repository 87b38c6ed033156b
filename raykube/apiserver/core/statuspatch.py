"""Patches of nothing but the status, as kubelets write them by the thousand.

What else the object has is as it was, and was judged when it was stored: only the new status is looked at, and only as
far as the schema's fast judge goes. Whatever that does not take at once is for the planner's long way, which finds the
words for what is wrong, and the outcome is the same either way.

Conditions differ by little but their times, of whole seconds: what comes of merging some is known by their bytes.
"""

from functools import lru_cache
from typing import Any

import orjson

from raykube.api import patch, schema
from raykube.api.resources import Resource, builtin
from raykube.apiserver.core.strategy import Object

# Kinds whose status has no rules but its schema's.
KINDS = frozenset({("", "Pod"), ("", "Node")})


def patched(resource: Resource, old: Object, body: Any, strategic: bool) -> Object | None:
    """`old` with a status that is patched by `body`; None: the long way has to judge it.

    Shares with `old` all but the status, which nobody may change. Raises ApiError where the patch itself is malformed.
    """
    if (resource.group, resource.kind) not in KINDS or not isinstance(body, dict) or body.keys() != {"status"}:
        return None
    if not isinstance(body["status"], dict) or not isinstance(old.get("status", {}), dict):
        return None
    if strategic:
        status = _merged(resource, old, body)
    else:
        status = patch.merge_patch({"status": old.get("status", {})}, body)["status"]
        if isinstance(status, dict):
            _strip(status)
    if not isinstance(status, dict):
        return None
    return {**old, "status": status} if schema.conforms(resource, "status", status) else None


def _merged(resource: Resource, old: Object, body: Object) -> Any:
    before, asked = old.get("status", {}), body["status"]
    there, said = before.get("conditions"), asked.get("conditions")
    if not (isinstance(there, list) and isinstance(said, list)) or any(name.startswith("$") for name in asked):
        status = patch.strategic_merge(resource, old, body).get("status")
        if isinstance(status, dict):
            _strip(status)
        return status
    rest = {name: value for name, value in asked.items() if name != "conditions"}
    status = patch.strategic_merge(resource, {"status": before}, {"status": rest})["status"]
    status["conditions"] = _conditions(resource.kind, orjson.dumps([there, said]))
    return status


@lru_cache(maxsize=4096)
def _conditions(kind: str, text: bytes) -> list[Any]:
    """What becomes of [conditions that are there, those of a patch]. Raises ApiError."""
    there, said = orjson.loads(text)
    body = {"status": {"conditions": said}}
    status: Object = patch.strategic_merge(builtin("v1", kind), {"status": {"conditions": there}}, body)["status"]
    _strip(status)
    found: list[Any] = status["conditions"]
    return found


def _strip(status: Object) -> None:
    """Where upstream writes null for a time that never was, nothing is stored."""
    conditions = status.get("conditions")
    if isinstance(conditions, list):
        status["conditions"] = [_without_nulls(each) for each in conditions]


def _without_nulls(condition: Any) -> Any:
    if not isinstance(condition, dict) or None not in condition.values():
        return condition
    return {name: value for name, value in condition.items() if value is not None}
