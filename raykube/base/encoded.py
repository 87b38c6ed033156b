"""Protobuf by hand, where building messages costs more than sending them: numbers, tags, a message that is bytes."""

from typing import Any


class Encoded:
    """Stands where gRPC takes a message of protobuf. `data`: the message's encoding."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 - as messages have it
        return self.data


def varint(number: int) -> bytes:
    """A number that is not negative, or a length, as protobuf has it: seven bits a byte, the lowest first."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def tag(descriptor: Any, name: str) -> bytes:
    """What stands before the length of a message's field: `descriptor` is the message's."""
    number = descriptor.fields_by_name[name].number
    assert number < 16, f"{name}: its tag takes two bytes"
    return bytes(((number << 3) | 2,))
