"""What a request says beside its object: query parameters and DeleteOptions, with upstream's rules for them.

Refusals: 400 for what cannot be read, 422 for what is read and not allowed.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raykube.api.errors import (
    ApiError,
    Cause,
    forbidden_field,
    invalid_value,
    not_supported,
    too_long,
)

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

EXACT = "Exact"
NOT_OLDER_THAN = "NotOlderThan"
_FIELD_MANAGER_BYTES_MAX = 128
_PROPAGATIONS = ("Foreground", "Background", "Orphan", "nil")
_VALIDATIONS = ("", "Ignore", "Strict", "Warn")


@dataclass(frozen=True, slots=True)
class Kind:
    """Of options, as a refusal names it."""

    kind: str
    group: str = "meta.k8s.io"
    plural: str = ""


_LIST, DELETE = Kind("ListOptions"), Kind("DeleteOptions")
# A patch's and an apply's have one name, and differ.
CREATE, UPDATE, PATCH, APPLY = Kind("CreateOptions"), Kind("UpdateOptions"), Kind("PatchOptions"), Kind("PatchOptions")


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool. A parameter that is there without a value is true, as Go's conversion has it."""
    if text in _FALSE:
        return False
    if text in _TRUE or not text:
        return True
    raise ApiError.bad_request(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def flag(query: Mapping[str, str], name: str) -> bool:
    """A boolean parameter; absent: false."""
    text = query.get(name)
    return text is not None and parse_bool(text)


def number(query: Mapping[str, str], name: str) -> int | None:
    """An integer parameter; absent or empty: None."""
    text = query.get(name)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ApiError.bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


@dataclass(slots=True)
class ListOptions:
    """How to list or watch."""

    label_selector: str = ""
    field_selector: str = ""
    resource_version: str = ""
    match: str = ""
    limit: int = 0
    token: str = ""
    watch: bool = False
    bookmarks: bool = False
    initial_events: bool | None = None
    timeout_s: float | None = None

    @property
    def revision(self) -> int:
        """The resourceVersion as a number; 0 when absent."""
        return int(self.resource_version or 0)


_VERSION_DIGITS_MAX = 20  # of 2^64; Python refuses to parse numbers of thousands of digits


def _refused(field: str, message: str, reason: str = "FieldValueForbidden") -> ApiError:
    return ApiError.invalid(_LIST, "", [Cause(reason, message, field)])


def list_options(query: Mapping[str, str], watch: bool) -> ListOptions:
    """Reads and checks the parameters of a list or watch. Raises ApiError 400 or 422."""
    initial = query.get("sendInitialEvents")
    seconds = number(query, "timeoutSeconds")
    options = ListOptions(
        label_selector=query.get("labelSelector", ""),
        field_selector=query.get("fieldSelector", ""),
        resource_version=query.get("resourceVersion", ""),
        match=query.get("resourceVersionMatch", ""),
        limit=number(query, "limit") or 0,
        token=query.get("continue", ""),
        watch=watch,
        bookmarks=flag(query, "allowWatchBookmarks"),
        initial_events=None if initial is None else parse_bool(initial),
        timeout_s=float(seconds) if seconds is not None else None,
    )
    version = options.resource_version
    if version and not (version.isascii() and version.isdigit()):
        raise ApiError.bad_request(
            f'invalid resource version "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
        )
    if len(version) > _VERSION_DIGITS_MAX or int(version or 0) >= 1 << 64:
        raise ApiError.bad_request(
            f'invalid resource version "{version}": strconv.ParseUint: parsing "{version}": value out of range'
        )
    if watch:
        _check_watch(options)
    else:
        _check_list(options)
    return options


def _check_watch(options: ListOptions) -> None:
    if options.initial_events is not None and options.match != NOT_OLDER_THAN:
        raise _refused(
            "resourceVersionMatch",
            "resourceVersionMatch is required for initial events and must be set to NotOlderThan"
            if not options.match
            else "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        )
    if options.initial_events is None and options.match:
        raise _refused(
            "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )


def _check_list(options: ListOptions) -> None:
    if options.initial_events is not None:
        raise _refused("sendInitialEvents", "sendInitialEvents is forbidden for list")
    if options.token and options.resource_version not in ("", "0"):
        raise ApiError.bad_request("specifying resource version is not allowed when using continue")
    if not options.match:
        return
    if options.token:
        raise _refused("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided")
    if not options.resource_version:
        raise _refused("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided")
    if options.match not in (EXACT, NOT_OLDER_THAN):
        raise _refused(
            "resourceVersionMatch",
            f'Unsupported value: "{options.match}": supported values: "Exact", "NotOlderThan", ""',
            "FieldValueNotSupported",
        )
    if options.match == EXACT and options.resource_version == "0":
        raise _refused("resourceVersionMatch", 'resourceVersionMatch "Exact" is forbidden for resourceVersion "0"')


@dataclass(slots=True)
class WriteOptions:
    """How to write."""

    dry_run: bool = False
    field_validation: str = "Warn"
    field_manager: str = ""
    force: bool = False


def write_options(query: Mapping[str, str], dry_run: list[str], kind: Kind) -> WriteOptions:
    """Reads and checks the parameters of a write. `dry_run`: all values given. `kind`: CREATE, UPDATE, PATCH, APPLY or
    DELETE; what a kind does not have is passed over. Raises ApiError.
    """
    force, manager, validation = False, "", ""
    causes: list[Cause] = []
    if kind is PATCH or kind is APPLY:
        force = flag(query, "force")
        if kind is PATCH and "force" in query:
            causes.append(forbidden_field("force", "may not be specified for non-apply patch"))
    if kind is not DELETE:
        manager, validation = query.get("fieldManager", ""), query.get("fieldValidation", "")
        causes += _manager_causes(manager)
    causes += _dry_run_causes([value for value in dry_run if value])
    if validation not in _VALIDATIONS:
        causes.append(not_supported("fieldValidation", validation, _VALIDATIONS))
    if causes:
        raise ApiError.invalid(kind, "", causes)
    return WriteOptions(any(dry_run), validation or "Warn", manager, force)


def _manager_causes(manager: str) -> list[Cause]:
    """Of one that is too long not the letters as well: each cause repeats the whole, and a query would make 100 MB."""
    if len(manager.encode()) > _FIELD_MANAGER_BYTES_MAX:
        return [too_long("fieldManager", _FIELD_MANAGER_BYTES_MAX)]
    causes = []
    for at, letter in enumerate(manager):
        if letter != " " and unicodedata.category(letter)[0] not in "LMNPS":
            text = f"invalid character U+{ord(letter):04X} (at position {len(manager[:at].encode())})"
            causes.append(invalid_value("fieldManager", manager, text))
    return causes


def _dry_run_causes(values: list[Any]) -> list[Cause]:
    if all(value == "All" for value in values):
        return []
    return [not_supported("dryRun", values, ("All",))]


@dataclass(slots=True)
class DeleteOptions:
    """How to delete."""

    grace_s: int | None = None
    propagation: str = ""  # Background, Foreground, Orphan; empty: not said
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
    condition: dict[str, Any] | None = None  # put into a pod's status by the same write


def delete_options(body: dict[str, Any], query: Mapping[str, str]) -> DeleteOptions:
    """DeleteOptions out of a body and query parameters; the body wins. Raises ApiError."""
    grace = body.get("gracePeriodSeconds")
    if grace is None and query.get("gracePeriodSeconds"):
        try:
            grace = int(query["gracePeriodSeconds"])
        except ValueError:
            raise ApiError.bad_request("gracePeriodSeconds must be an integer") from None
    if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int)):
        raise ApiError.bad_request("gracePeriodSeconds must be an integer")
    preconditions = body.get("preconditions") or {}
    dry_run = body.get("dryRun") or []
    if not isinstance(preconditions, dict) or not isinstance(dry_run, list):
        raise ApiError.bad_request("DeleteOptions: preconditions must be an object, and dryRun a list")
    propagation = body.get("propagationPolicy") or query.get("propagationPolicy") or ""
    orphan = body.get("orphanDependents")
    if orphan is None and query.get("orphanDependents"):
        orphan = parse_bool(query["orphanDependents"])
    causes: list[Cause] = []
    if orphan is not None and propagation:
        text = "orphanDependents and deletionPropagation cannot be both set"
        causes.append(invalid_value("propagationPolicy", propagation, text))
    if propagation and propagation not in _PROPAGATIONS[:-1]:
        causes.append(not_supported("propagationPolicy", propagation, _PROPAGATIONS))
    # Not passed over: whoever meant to try a deletion would have it done.
    causes += _dry_run_causes(dry_run)
    if causes:
        raise ApiError.invalid(DELETE, "", causes)
    if orphan is not None:
        propagation = "Orphan" if orphan else "Background"
    return DeleteOptions(
        grace_s=grace,
        propagation=propagation,
        uid=preconditions.get("uid") or "",
        resource_version=str(preconditions.get("resourceVersion") or ""),
        dry_run=bool(dry_run) or query.get("dryRun") == "All",
    )
