"""Sizes of a terminal as they come through a resize stream: JSON objects, with or without lines between them."""

import json
from dataclasses import dataclass

PENDING_CHARACTERS_MAX = 4096
SIDE_MAX = 65535


@dataclass(frozen=True, slots=True)
class Size:
    width: int
    height: int


class Resizes:
    """Takes the stream in pieces."""

    def __init__(self) -> None:
        self._text = ""
        self._decoder = json.JSONDecoder()

    def feed(self, data: bytes) -> list[Size]:
        """The sizes that are complete now; what is none is skipped."""
        self._text += data.decode(errors="replace")
        found: list[Size] = []
        while True:
            start = self._text.find("{")
            if start < 0:
                self._text = ""
                return found
            try:
                value, end = self._decoder.raw_decode(self._text, start)
            except ValueError:
                # Half of an object, which the next piece completes; nothing sensible is this long.
                self._text = self._text[start:] if len(self._text) - start < PENDING_CHARACTERS_MAX else ""
                return found
            self._text = self._text[end:]
            sides = [value.get(side) for side in ("Width", "Height")]
            if all(type(side) is int and 0 < side <= SIDE_MAX for side in sides):
                found.append(Size(*sides))


def encode(width: int, height: int) -> bytes:
    return json.dumps({"Width": width, "Height": height}).encode() + b"\n"
