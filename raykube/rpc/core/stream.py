"""One call on its connection: its windows and what waits to be sent."""

from collections import deque

from raykube.rpc.core.messages import MessageReader


class Stream:
    """State of one stream while it is open on either side.

    `pending` are bytes of DATA that found no window or no room in the output; what follows them ends our side: `tail`,
    the block of a server's trailers, or `end_wanted`, the flag on a client's last DATA.
    """

    __slots__ = (
        "answered",
        "end_wanted",
        "ended",
        "full",
        "held_bytes",
        "id",
        "peer_ended",
        "pending",
        "pending_bytes",
        "reader",
        "receive_window",
        "send_window",
        "tail",
    )

    def __init__(self, number: int, send_window: int, receive_window: int) -> None:
        self.id = number
        self.send_window = send_window  # negative after the peer lowered INITIAL_WINDOW_SIZE
        self.receive_window = receive_window
        self.reader: MessageReader | None = None  # most streams never have a message in parts
        self.held_bytes = 0  # received, and not yet said to be taken
        self.pending: deque[bytes | memoryview] | None = None  # most streams never have any
        self.pending_bytes = 0
        self.tail = b""
        self.end_wanted = False
        self.ended = False  # our side
        self.peer_ended = False
        self.answered = False  # a server sent its head, or a client received it
        self.full = False  # its sender was told to wait

    @property
    def partial_bytes(self) -> int:
        """Bytes received of a message that is not whole yet."""
        return 0 if self.reader is None else self.reader.partial_bytes

    def put(self, *chunks: bytes) -> None:
        """Queues bytes of DATA."""
        if self.pending is None:
            self.pending = deque()
        for chunk in chunks:
            if chunk:
                self.pending.append(chunk)
                self.pending_bytes += len(chunk)

    def take(self, size: int) -> list[bytes | memoryview]:
        """The first `size` of the pending bytes, uncopied."""
        assert self.pending is not None
        self.pending_bytes -= size
        chunks: list[bytes | memoryview] = []
        while size:
            chunk = self.pending[0]
            if len(chunk) <= size:
                chunks.append(self.pending.popleft())
                size -= len(chunk)
            else:
                view = memoryview(chunk)
                chunks.append(view[:size])
                self.pending[0] = view[size:]
                size = 0
        return chunks

    def clear(self) -> None:
        """Forgets the pending bytes."""
        self.pending = None
        self.pending_bytes = 0
