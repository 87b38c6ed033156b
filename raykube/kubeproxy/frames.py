"""A connection between two kube-proxies: TLS, and frames inside it.

    client proxy  ──  "127.1.2.3:8080\\n"        ──►  relay of the endpoint's node
                  ◄─  "ok\\n" or "no REASON\\n"  ──
                  ◄─  frames: length (4 bytes, big endian), bytes; length 0 is the end of this direction  ─►

TLS has no half-close in Python, so the end of one direction is a frame: a client that sends its request and closes its
sending side still gets its answer.
"""

import asyncio

from raykube.rpc.pipe import Side

LINE_BYTES_MAX = 256
FRAME_BYTES_MAX = 1 << 20
END = b"\0\0\0\0"


class FramedSide(Side):
    """The end of such a connection: first a line, then frames."""

    def __init__(self) -> None:
        super().__init__()
        self.line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._resume_reading()  # the line comes before the pipe is joined

    def send_line(self, text: str) -> None:
        super().write(text.encode() + b"\n")

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), FRAME_BYTES_MAX):
            part = data[start : start + FRAME_BYTES_MAX]
            super().write(len(part).to_bytes(4, "big") + part)

    def write_eof(self) -> None:
        super().write(END)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self.line.done() and not self._take_line():
            return
        position = 0
        while len(self._buffer) - position >= 4:
            length = int.from_bytes(self._buffer[position : position + 4], "big")
            if length > FRAME_BYTES_MAX:
                self.abort()
                return
            if len(self._buffer) - position - 4 < length:
                break
            position += 4
            if length:
                super().data_received(bytes(self._buffer[position : position + length]))
            else:
                super().eof_received()
            position += length
        del self._buffer[:position]

    def _take_line(self) -> bool:
        end = self._buffer.find(b"\n", 0, LINE_BYTES_MAX)
        if end >= 0:
            self.line.set_result(self._buffer[:end].decode("ascii", "replace"))
            del self._buffer[: end + 1]
            return True
        if len(self._buffer) >= LINE_BYTES_MAX:
            self.abort()
        return False

    def eof_received(self) -> bool:
        return False  # TLS ended without our end frame: the connection broke

    def connection_lost(self, error: Exception | None) -> None:
        if not self.line.done():
            self.line.set_exception(ConnectionResetError("the connection ended before its first line"))
            self.line.exception()  # nobody may be waiting for it any more
        super().connection_lost(error)
