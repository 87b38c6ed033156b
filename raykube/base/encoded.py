"""A message that is bytes already: stands where a handler of gRPC answers with one of protobuf."""


class Encoded:
    """`data`: the message's encoding."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:  # noqa: N802 - as messages have it
        return self.data
