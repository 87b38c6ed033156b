"""Query parameters of a request, with the rules that upstream holds for them."""

from collections.abc import Mapping
from dataclasses import dataclass

from raykube.api.errors import ApiError, Cause

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})

EXACT = "Exact"
NOT_OLDER_THAN = "NotOlderThan"
LIST_OPTIONS = "ListOptions.meta.k8s.io"


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
    return ApiError.invalid(LIST_OPTIONS, "", [Cause(reason, message, field)])


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


def write_options(query: Mapping[str, str], dry_run: list[str]) -> WriteOptions:
    """Reads and checks the parameters of a write. `dry_run`: all values given. Raises ApiError."""
    for value in dry_run:
        if value and value != "All":
            cause = Cause("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: "All"', "dryRun")
            raise ApiError.invalid("CreateOptions.meta.k8s.io", "", [cause])
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        message = f'Unsupported value: "{validation}": supported values: "Ignore", "Strict", "Warn"'
        raise ApiError.invalid(
            "CreateOptions.meta.k8s.io", "", [Cause("FieldValueNotSupported", message, "fieldValidation")]
        )
    return WriteOptions(any(dry_run), validation, query.get("fieldManager", ""), flag(query, "force"))
