"""gRPC's messages out of DATA: a flag byte, a length of four bytes, the message; frames cut them anywhere.

DATA │ 0 0005 hel │   DATA │ lo 0 0002 hi │      →  b"hello", b"hi"
"""

import zlib

from raykube.rpc.errors import Code, RpcError

PREFIX_BYTES = 5


def alone(data: bytes, bytes_max: int) -> bytes | None:
    """The message, when `data` is just one that may be taken: by far the commonest, a frame is a message."""
    size = len(data) - PREFIX_BYTES
    if 0 <= size <= bytes_max and not data[0] and int.from_bytes(data[1:PREFIX_BYTES], "big") == size:
        return data[PREFIX_BYTES:]
    return None


class Compressed(bytes):
    """A message as it came. It is inflated by whoever takes it: one that nobody wants costs nothing."""

    __slots__ = ()

    def inflated(self, bytes_max: int) -> bytes:
        """What gzip made this of. Raises RpcError: it is longer than `bytes_max`, or this is not gzip's."""
        inflator = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            message = inflator.decompress(self, bytes_max + 1)
        except zlib.error as error:
            raise RpcError(Code.INTERNAL, f"a message is not gzip's: {error}") from None
        if len(message) > bytes_max:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"a compressed message is longer than the {bytes_max} allowed")
        if not inflator.eof or inflator.unused_data:
            raise RpcError(Code.INTERNAL, "a message is not gzip's: it has another end")
        return message


class MessageReader:
    """Puts one stream's messages together. With `are_compressed`, some may be `Compressed`."""

    __slots__ = ("_bytes_max", "_have", "_need", "_parts", "are_compressed")

    def __init__(self, bytes_max: int, are_compressed: bool = False) -> None:
        self._bytes_max = bytes_max
        self.are_compressed = are_compressed
        self._parts: list[bytes] = []
        self._have = 0
        self._need = PREFIX_BYTES

    @property
    def partial_bytes(self) -> int:
        """Bytes held of a message that is not whole yet."""
        return self._have

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. Raises RpcError: too long, or compressed where none may be."""
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
            message = whole[start + PREFIX_BYTES : start + self._need]
            messages.append(Compressed(message) if whole[start] else message)
            start += self._need
        self._have = len(whole) - start
        self._parts = [whole[start:]] if self._have else []
        return messages

    def _length(self, whole: bytes, start: int) -> int:
        if whole[start] and not (whole[start] == 1 and self.are_compressed):
            raise RpcError(Code.INTERNAL, "a message is marked as compressed, and the call does not say with what")
        length = int.from_bytes(whole[start + 1 : start + 5], "big")
        if length > self._bytes_max:
            raise self._too_long(length)
        return length

    def _too_long(self, length: int) -> RpcError:
        return RpcError(
            Code.RESOURCE_EXHAUSTED, f"a message of {length} bytes is longer than the {self._bytes_max} allowed"
        )
