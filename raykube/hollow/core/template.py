"""JSON with holes: encoded once for all that differ in the values alone.

    Template({"podIP": hole("ip"), "restartCount": number("restarts")}).render({b"ip": b"10.0.0.1", b"restarts": b"0"})

Values are put in as they are: they must need no escapes.
"""

import re
from collections.abc import Mapping
from typing import Any

import orjson

# Private characters of Unicode, which no name or reason has.
_OPEN, _NUMBER, _CLOSE = "\ue000", "\ue002", "\ue001"
_HOLE = re.compile(f'{_OPEN}([a-z_]+){_CLOSE}|"{_NUMBER}([a-z_]+){_CLOSE}"'.encode())


def hole(name: str) -> str:
    """A place in a string, or a whole one."""
    return f"{_OPEN}{name}{_CLOSE}"


def number(name: str) -> str:
    """A number's place."""
    return f"{_NUMBER}{name}{_CLOSE}"


class Template:
    """An encoded value with its holes."""

    __slots__ = ("_pattern",)

    def __init__(self, value: Any) -> None:
        text = orjson.dumps(value)
        # Python's own formatting of bytes fills all holes in one call.
        self._pattern = _HOLE.sub(rb"%(\1\2)b", text.replace(b"%", b"%%"))

    def render(self, values: Mapping[bytes, bytes]) -> bytes:
        """The JSON with `values` in its holes."""
        return self._pattern % values
