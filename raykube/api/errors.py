"""API errors: one exception, and the Status object that every client reads.

Vocabulary
  cause     one thing wrong with one field: (reason, message, field). `str(cause)` is `field: message`.
  message   what kubectl prints; the words are part of the API, scripts grep them.
  reason    what client-go's `IsNotFound` and its kin test.

`invalid_value`, `required` … build causes; the functions `not_found`, `conflict` … build errors; they are also
reachable as `ApiError.not_found` and so on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

import orjson

OPTIMISTIC_LOCK_MESSAGE = "the object has been modified; please apply your changes to the latest version and try again"


class Named(Protocol):
    """What a message needs to know of a resource."""

    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def plural(self) -> str: ...


@dataclass(frozen=True)
class Cause:
    reason: str
    message: str
    field: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message

    def to_dict(self) -> dict[str, str]:
        return {
            key: value
            for key, value in (("reason", self.reason), ("message", self.message), ("field", self.field))
            if value
        }


def quote(text: str) -> str:
    """A Go `%q` string."""
    return orjson.dumps(text).decode()


def show(value: Any) -> str:
    """A bad value as messages print it: strings quoted, numbers plain, the rest as JSON."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | Decimal):
        return str(value)
    return orjson.dumps(value, default=str).decode()


def required(field: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", f"Required value: {detail}" if detail else "Required value", field)


def invalid_value(field: str, value: Any, detail: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {show(value)}: {detail}", field)


def not_supported(field: str, value: Any, supported: Iterable[str]) -> Cause:
    allowed = ", ".join(quote(each) for each in supported)
    return Cause("FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {allowed}", field)


def duplicate(field: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {show(value)}", field)


def forbidden_field(field: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {detail}", field)


def too_long(field: str, bytes_max: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {bytes_max} bytes", field)


def too_many(field: str, count: int, count_max: int) -> Cause:
    return Cause("FieldValueTooMany", f"Too many: {count}: must have at most {count_max} items", field)


def value_not_found(field: str, value: Any) -> Cause:
    return Cause("FieldValueNotFound", f"Not found: {show(value)}", field)


def _qualified(group: str, name: str) -> str:
    return f"{name}.{group}" if group else name


class ApiError(Exception):
    """A failed request. `code` is the HTTP code; `status()` the Status object."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}

    @property
    def causes(self) -> list[Cause]:
        return [
            Cause(each.get("reason", ""), each.get("message", ""), each.get("field", ""))
            for each in self.details.get("causes") or []
        ]

    @property
    def retry_after_s(self) -> int:
        """Seconds a client should wait before it tries again; 0: do not retry."""
        return int(self.details.get("retryAfterSeconds") or 0)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            answer["details"] = self.details
        answer["code"] = self.code
        return answer

    @classmethod
    def from_status(cls, status: dict[str, Any]) -> ApiError:
        """The error a server sent, rebuilt by a client. Tolerates a Status with fields missing."""
        return cls(
            int(status.get("code") or 500),
            str(status.get("reason") or ""),
            str(status.get("message") or "unknown"),
            dict(status.get("details") or {}),
        )

    @classmethod
    def bad_request(cls, message: str) -> ApiError:
        return cls(400, "BadRequest", message)

    @classmethod
    def unauthorized(cls, message: str = "Unauthorized") -> ApiError:
        return cls(401, "Unauthorized", message)

    @classmethod
    def forbidden(cls, resource: Named | None, name: str, message: str) -> ApiError:
        if resource is None:
            return cls(403, "Forbidden", f"forbidden: {message}")
        subject = _qualified(resource.group, resource.plural) + (f" {quote(name)}" if name else "")
        return cls(403, "Forbidden", f"{subject} is forbidden: {message}", _details(resource, name))

    @classmethod
    def not_found(cls, resource: Named, name: str) -> ApiError:
        what = _qualified(resource.group, resource.plural)
        return cls(404, "NotFound", f"{what} {quote(name)} not found", _details(resource, name))

    @classmethod
    def unknown_path(cls) -> ApiError:
        """No resource is served at this path."""
        return cls(404, "NotFound", "the server could not find the requested resource")

    @classmethod
    def method_not_allowed(cls, resource: Named | None = None, action: str = "") -> ApiError:
        if resource is None:
            return cls(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        what = _qualified(resource.group, resource.plural)
        return cls(
            405, "MethodNotAllowed", f"{action} is not supported on resources of kind {quote(what)}", _details(resource)
        )

    @classmethod
    def already_exists(cls, resource: Named, name: str) -> ApiError:
        what = _qualified(resource.group, resource.plural)
        return cls(409, "AlreadyExists", f"{what} {quote(name)} already exists", _details(resource, name))

    @classmethod
    def conflict(cls, resource: Named, name: str, message: str = OPTIMISTIC_LOCK_MESSAGE) -> ApiError:
        what = _qualified(resource.group, resource.plural)
        return cls(
            409,
            "Conflict",
            f"Operation cannot be fulfilled on {what} {quote(name)}: {message}",
            _details(resource, name),
        )

    @classmethod
    def apply_conflict(cls, causes: list[Cause], message: str) -> ApiError:
        """Server-side apply met fields of other managers."""
        return cls(409, "Conflict", message, {"causes": [cause.to_dict() for cause in causes]})

    @classmethod
    def expired(cls, message: str) -> ApiError:
        return cls(410, "Expired", message)

    @classmethod
    def too_large(cls, message: str = "limit is 3145728") -> ApiError:
        return cls(413, "RequestEntityTooLarge", f"Request entity is too large: {message}")

    @classmethod
    def unsupported_media_type(cls, accepted: Iterable[str]) -> ApiError:
        return cls(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted),
        )

    @classmethod
    def not_acceptable(cls, accepted: Iterable[str]) -> ApiError:
        return cls(406, "NotAcceptable", "only the following media types are accepted: " + ", ".join(accepted))

    @classmethod
    def invalid(cls, resource: Named | str, name: str, causes: list[Cause]) -> ApiError:
        """422. `resource` may be a bare kind. Equal causes are reported once."""
        unique = list(dict.fromkeys(causes))
        group, kind = ("", resource) if isinstance(resource, str) else (resource.group, resource.kind)
        shown = ", ".join(dict.fromkeys(str(cause) for cause in unique))
        if len(unique) > 1:
            shown = f"[{shown}]"
        details: dict[str, Any] = {"name": name} if name else {}
        if group:
            details["group"] = group
        details["kind"] = kind
        details["causes"] = [cause.to_dict() for cause in unique]
        return cls(422, "Invalid", f"{_qualified(group, kind)} {quote(name)} is invalid: {shown}", details)

    @classmethod
    def too_many_requests(
        cls, message: str, retry_after_s: int = 1, causes: Iterable[Cause] = (), resource: Named | None = None
    ) -> ApiError:
        details: dict[str, Any] = _details(resource) if resource else {}
        listed = [cause.to_dict() for cause in causes]
        if listed:
            details["causes"] = listed
        if retry_after_s:
            details["retryAfterSeconds"] = retry_after_s
        return cls(429, "TooManyRequests", message, details)

    @classmethod
    def internal(cls, message: str) -> ApiError:
        return cls(500, "InternalError", f"Internal error occurred: {message}", {"causes": [{"message": message}]})

    @classmethod
    def server_timeout(cls, resource: Named, operation: str, retry_after_s: int = 1) -> ApiError:
        what = _qualified(resource.group, resource.plural)
        return cls(
            500,
            "ServerTimeout",
            f"The {operation} operation against {what} could not be completed at this time, please try again.",
            {**_details(resource, operation), "retryAfterSeconds": retry_after_s},
        )

    @classmethod
    def unavailable(cls, message: str, retry_after_s: int = 0) -> ApiError:
        return cls(503, "ServiceUnavailable", message, {"retryAfterSeconds": retry_after_s} if retry_after_s else None)

    @classmethod
    def timeout(cls, message: str, retry_after_s: int = 0) -> ApiError:
        details = {"retryAfterSeconds": retry_after_s} if retry_after_s else None
        return cls(504, "Timeout", f"Timeout: {message}", details)

    @classmethod
    def revision_too_large(cls, asked: int, current: int) -> ApiError:
        """This server has not seen the revision that was asked for (yet)."""
        error = cls.timeout(f"Too large resource version: {asked}, current: {current}", 1)
        error.details["causes"] = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
        return error


def _details(resource: Named, name: str = "") -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    return details


bad_request = ApiError.bad_request
unauthorized = ApiError.unauthorized
forbidden = ApiError.forbidden
not_found = ApiError.not_found
method_not_allowed = ApiError.method_not_allowed
already_exists = ApiError.already_exists
conflict = ApiError.conflict
expired = ApiError.expired
too_large = ApiError.too_large
invalid = ApiError.invalid
too_many_requests = ApiError.too_many_requests
internal = ApiError.internal
timeout = ApiError.timeout
unavailable = ApiError.unavailable
unsupported_media_type = ApiError.unsupported_media_type
not_acceptable = ApiError.not_acceptable
