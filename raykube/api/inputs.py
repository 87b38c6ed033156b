"""What a pod reads, and where it lies: an annotation by which the scheduler draws pods to their data.

    raykube.io/inputs: [{"bytes": 500000000, "at": ["host2", "10.0.0.7"], "name": "ray:00ff…"}]

`at` names the machines that have the whole of it, by Node name or by an InternalIP of the Node; `name` is for people.
It says what was true when the pod was made. It only ever moves a score: what cannot be read is as if it were not there.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

ANNOTATION = "raykube.io/inputs"
INPUTS_MAX = 64
PLACES_MAX = 64  # of one input


class Input(NamedTuple):
    """One thing that is read."""

    bytes: int
    at: tuple[str, ...]
    name: str = ""


def written(inputs: Iterable[Input]) -> str:
    """The annotation's text."""
    return orjson.dumps([{"name": one.name, "bytes": one.bytes, "at": list(one.at)} for one in inputs]).decode()


def read(pod: dict[str, Any]) -> tuple[Input, ...]:
    """What a pod names; entries that make no sense are left out."""
    text = (pod["metadata"].get("annotations") or {}).get(ANNOTATION)
    if not isinstance(text, str):
        return ()
    try:
        entries = orjson.loads(text)
    except ValueError:
        return ()
    if not isinstance(entries, list):
        return ()
    return tuple(filter(None, map(_entry, entries[:INPUTS_MAX])))


def _entry(entry: Any) -> Input | None:
    if not isinstance(entry, dict):
        return None
    size, places = entry.get("bytes"), entry.get("at")
    if type(size) is not int or size <= 0 or not isinstance(places, list):
        return None
    names = tuple(sorted({place for place in places[:PLACES_MAX] if isinstance(place, str)}))
    name = entry.get("name")
    return Input(size, names, name if isinstance(name, str) else "") if names else None
