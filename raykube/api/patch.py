"""Patches: JSON patch (RFC 6902), JSON merge patch (RFC 7386), and the door to strategic merge.

Each function takes an object and a patch and returns a new object; neither argument is changed. Errors are ApiErrors
with the status that upstream gives: 400 for a patch that is not one, 422 for one that does not fit this object."""

import re
from typing import Any

import jsonpatch
import jsonpointer
import orjson

from raykube.api.errors import ApiError, invalid_value
from raykube.api.schema import cannot_handle
from raykube.api.strategic import Kinded, go_text, strategic_merge

__all__ = ["Kinded", "json_patch", "merge_patch", "strategic_merge", "undecodable"]

JSON_PATCH_OPERATIONS_MAX = 10_000
_OPERATIONS = {"add", "remove", "replace", "move", "copy", "test"}


def _does_not_fit() -> ApiError:
    """Upstream hides which operation failed, and so do we: clients compare this text."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request", {})


def json_patch(obj: dict[str, Any], operations: Any) -> dict[str, Any]:
    """Applies a list of operations, all or none."""
    if not isinstance(operations, list) or not all(isinstance(each, dict) for each in operations):
        raise ApiError.bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > JSON_PATCH_OPERATIONS_MAX:
        raise ApiError(
            413,
            "RequestEntityTooLarge",
            "Request entity is too large: The allowed maximum operations in a JSON patch is "
            f"{JSON_PATCH_OPERATIONS_MAX}, got {len(operations)}",
        )
    for operation in operations:
        if operation.get("op") not in _OPERATIONS or not isinstance(operation.get("path"), str):
            raise _does_not_fit()
    try:
        patched = jsonpatch.JsonPatch(operations).apply(obj)
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, ValueError, KeyError) as error:
        raise _does_not_fit() from error
    if not isinstance(patched, dict):
        raise _does_not_fit()
    return patched


def merge_patch(obj: dict[str, Any], patch: Any) -> dict[str, Any]:
    """RFC 7386: maps merge, null deletes, everything else replaces."""
    if not isinstance(patch, dict):
        raise ApiError.bad_request(
            "error decoding patch: json: cannot unmarshal "
            f"{_go_kind(patch)} into Go value of type map[string]interface {{}}"
        )
    merged: dict[str, Any] = _merged(orjson.loads(orjson.dumps(obj)), orjson.loads(orjson.dumps(patch)))
    return merged


def _merged(target: Any, patch: Any) -> Any:
    """`target` with `patch` merged in; both become parts of the outcome."""
    if not isinstance(patch, dict):
        return patch
    if not isinstance(target, dict):
        target = {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = _merged(target.get(key), value)
    return target


def undecodable(resource: Kinded, shown: dict[str, Any], error: ApiError) -> ApiError:
    """The 422 for a patch whose outcome is no object of `resource`; `error` is what decoding it said.

    `shown` is what the client gets to see: a strategic patch itself, the outcome of the others."""
    problem = error.message.removeprefix(cannot_handle(resource, "").message)
    if "metadata" in shown and "kind" in shown:
        text = orjson.dumps(shown).decode()
    else:
        text = go_text(shown)
        if wrong := re.search(r"of type (u?int\d*|string|bool|float64)$", problem):
            problem = f"unrecognized type: {wrong[1]}"
    return ApiError.invalid("", "", [invalid_value("patch", text, problem)])


def _go_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return {list: "array", str: "string", int: "number", float: "number"}.get(type(value), "object")
