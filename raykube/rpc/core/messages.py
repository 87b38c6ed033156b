"""gRPC's messages out of DATA: a flag byte, a length of four bytes, the message; frames cut them anywhere.

DATA │ 0 0005 hel │   DATA │ lo 0 0002 hi │      →  b"hello", b"hi"
"""

from raykube.rpc.errors import Code, RpcError

PREFIX_BYTES = 5


def alone(data: bytes, bytes_max: int) -> bytes | None:
    """The message, when `data` is just one that may be taken: by far the commonest, a frame is a message."""
    size = len(data) - PREFIX_BYTES
    if 0 <= size <= bytes_max and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == size:
        return data[PREFIX_BYTES:]
    return None


class MessageReader:
    """Puts one stream's messages together."""

    __slots__ = ("_bytes_max", "_have", "_need", "_parts")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._have = 0
        self._need = PREFIX_BYTES

    @property
    def partial_bytes(self) -> int:
        """Bytes held of a message that is not whole yet."""
        return self._have

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. Raises RpcError: too long, or compressed."""
        self._parts.append(data)
        self._have += len(data)
        messages: list[bytes] = []
        if self._have < self._need:
            return messages
        whole = b"".join(self._parts)
        start = 0
        while True:
            self._need = PREFIX_BYTES
            if len(whole) - start < PREFIX_BYTES:
                break
            length = self._length(whole, start)
            self._need += length
            if len(whole) - start < self._need:
                break
            start += self._need
            messages.append(whole[start - length : start])
        self._have = len(whole) - start
        self._parts = [whole[start:]] if self._have else []
        return messages

    def _length(self, whole: bytes, start: int) -> int:
        if whole[start]:
            raise RpcError(Code.UNIMPLEMENTED, "compressed messages are not supported")
        length = int.from_bytes(whole[start + 1 : start + 5], "big")
        if length > self._bytes_max:
            raise self._too_long(length)
        return length

    def _too_long(self, length: int) -> RpcError:
        return RpcError(
            Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes is longer than the {self._bytes_max} allowed"
        )
