"""Ages as kubectl prints them: two units at most, coarser as they grow: `45s`, `5m30s`, `3h`, `3d4h`, `200d`."""

from typing import Any

from raykube.base.clock import parse_rfc3339

UNKNOWN = "<unknown>"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def human_duration(seconds: float) -> str:
    """A span of time in kubectl's words."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 2 * _MINUTE:
        return f"{max(total, 0)}s"
    minutes, hours, days = total // _MINUTE, total // _HOUR, total // _DAY
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    if days < 8 * 365:
        return _two(days // 365, "y", days % 365, "d")
    return f"{days // 365}y"


def _two(large: int, large_unit: str, small: int, small_unit: str) -> str:
    return f"{large}{large_unit}{small}{small_unit}" if small else f"{large}{large_unit}"


def age(time: Any, now: float) -> str:
    """How long ago an RFC 3339 time was; `<unknown>` for none."""
    if not time:
        return UNKNOWN
    try:
        return human_duration(now - parse_rfc3339(time))
    except (TypeError, ValueError):
        return UNKNOWN


def object_age(obj: dict[str, Any], now: float) -> str:
    """How long ago an object was created."""
    return age(obj.get("metadata", {}).get("creationTimestamp"), now)
