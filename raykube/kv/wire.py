"""Raft messages as bytes of `raft.proto`, both ways.

What carries the data is put together by hand: protobuf's messages would copy each entry several times, once more for
every member that gets it. A message's fields may stand in any order, and a repeated one in pieces: so the few small
ones are protobuf's own work, and the entries are put behind them.
"""

from collections.abc import Sequence
from typing import Any

from raykube.base.encoded import tag, varint
from raykube.kv.core.raft.messages import Entry, Kind, Message
from raykube.pb import raft_pb2

_MESSAGES = tag(raft_pb2.MessageBatch.DESCRIPTOR, "messages")
_ENTRIES = tag(raft_pb2.Message.DESCRIPTOR, "entries")
_DATA = tag(raft_pb2.Entry.DESCRIPTOR, "data")


def head(message: Message) -> Any:
    """The message without entries and without a snapshot's content, which travels on its own."""
    return raft_pb2.Message(
        kind=message.kind,
        to=message.to,
        sender=message.sender,
        term=message.term,
        log_term=message.log_term,
        index=message.index,
        commit=message.commit,
        reject=message.reject,
        hint=message.hint,
        context=message.context,
        force=message.force,
    )


class Encoder:
    """Encodes messages that leave together: entries that go to several members are encoded once.

    Entries are told apart by the first index, the last index and its term: logs that agree there agree before it.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[int, int, int], bytes] = {}

    def encode(self, message: Message) -> bytes:
        """The message, without a snapshot's content."""
        small: bytes = head(message).SerializeToString()
        return small + self._encoded(message.entries) if message.entries else small

    def _encoded(self, entries: Sequence[Entry]) -> bytes:
        key = (entries[0].index, entries[-1].index, entries[-1].term)
        if not entries[0].index:
            return _encode(entries)  # a proposal that is forwarded has no place in the log yet
        if key not in self._entries:
            self._entries[key] = _encode(entries)
        return self._entries[key]


def _encode(entries: Sequence[Entry]) -> bytes:
    parts: list[bytes] = []
    for term, index, kind, data in entries:
        small = raft_pb2.Entry(term=term, index=index, kind=kind).SerializeToString() + _DATA
        length = varint(len(data))
        parts += (_ENTRIES, varint(len(small) + len(length) + len(data)), small, length, data)
    return b"".join(parts)


def batch(opening: bytes, messages: Sequence[bytes]) -> bytes:
    """A `MessageBatch` of encoded messages; `opening`: its other fields, encoded."""
    parts = [opening]
    for message in messages:
        parts += (_MESSAGES, varint(len(message)), message)
    return b"".join(parts)


def decode(wire: Any) -> Message:
    """The message. Raises ValueError on a kind that this program does not know."""
    return Message(
        Kind(wire.kind),
        wire.to,
        wire.sender,
        wire.term,
        wire.log_term,
        wire.index,
        [Entry(entry.term, entry.index, entry.kind, entry.data) for entry in wire.entries],
        wire.commit,
        wire.reject,
        wire.hint,
        wire.context,
        wire.force,
    )
