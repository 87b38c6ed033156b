"""Failed calls as `ApiError`, and what a retry may do after a call whose outcome is unknown.

An operating error of the API is a Status object in the result. A failed RPC carries one in its message when the server
had one to give; else its code is mapped to the status that a REST client would have seen.

A write that reached nobody (`Unprocessed`) is retried, whatever it is. After a connection broke in the middle of one
nobody knows whether it happened. Retrying is then honest for
- DELETE, BIND, UPDATE and patches that state a result (merge, strategic, apply): the second time they are no-ops, or
  answer NotFound or Conflict, which a caller has to expect from others' writes anyway;
- CREATE of a named object: AlreadyExists then means either the first attempt or somebody else. If what is stored
  contains everything that was sent, the caller has what it asked for, and gets that object as the result; else it
  gets AlreadyExists.
It is not for a CREATE with generateName (it would make two) nor for a JSON patch without precondition (`add` to a list
twice): those answer 504 Timeout, saying that the outcome is unknown.
"""

from typing import Any

import orjson

from raykube.api.errors import ApiError
from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError

_STATUS_OF = {
    Code.INVALID_ARGUMENT: (400, "BadRequest"),
    Code.UNAUTHENTICATED: (401, "Unauthorized"),
    Code.PERMISSION_DENIED: (403, "Forbidden"),
    Code.NOT_FOUND: (404, "NotFound"),
    Code.UNIMPLEMENTED: (405, "MethodNotAllowed"),
    Code.ALREADY_EXISTS: (409, "AlreadyExists"),
    Code.ABORTED: (409, "Conflict"),
    Code.OUT_OF_RANGE: (410, "Expired"),
    Code.RESOURCE_EXHAUSTED: (429, "TooManyRequests"),
    Code.UNAVAILABLE: (503, "ServiceUnavailable"),
    Code.DEADLINE_EXCEEDED: (504, "Timeout"),
}


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }


def error_of_rpc(error: RpcError) -> ApiError:
    if error.message.startswith("{"):
        try:
            return ApiError.from_status(orjson.loads(error.message))
        except orjson.JSONDecodeError:
            pass
    code, reason = _STATUS_OF.get(error.code, (500, "InternalError"))
    return ApiError.from_status(status(code, reason, error.message))


def error_of_body(body: bytes, code: int = 500) -> ApiError:
    """The error in a result or in an ERROR event."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        found = status(code, "InternalError", body.decode(errors="replace") or f"status {code}")
    return ApiError.from_status(found)


def unknown_outcome() -> api_pb2.Result:
    message = "the connection broke during a write that cannot be repeated safely: its outcome is unknown"
    return api_pb2.Result(code=504, body=orjson.dumps(status(504, "Timeout", message)))


def repeatable(operation: api_pb2.Operation) -> bool:
    """Whether an operation of unknown outcome may be sent again."""
    if operation.verb == api_pb2.CREATE:
        return bool(operation.name)
    if operation.verb == api_pb2.PATCH:
        return operation.patch_type != api_pb2.JSON or operation.resource_version > 0
    return True


def contains(stored: Any, sent: Any) -> bool:
    """Whether `stored` has everything that is in `sent`; servers add defaults, never remove."""
    if isinstance(sent, dict):
        return isinstance(stored, dict) and all(
            contains(stored.get(name), value) for name, value in sent.items() if value not in (None, {}, [])
        )
    if isinstance(sent, list):
        return (
            isinstance(stored, list)
            and len(stored) >= len(sent)
            and all(contains(left, right) for left, right in zip(stored, sent, strict=False))
        )
    return bool(stored == sent)
