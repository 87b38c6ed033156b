"""Raft messages as protobuf, both ways."""

from typing import Any

from raykube.kv.core.raft.messages import Entry, Kind, Message
from raykube.pb import raft_pb2


def encode(message: Message) -> Any:
    """The message, without a snapshot's content, which travels on its own."""
    wire = raft_pb2.Message(
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
    add = wire.entries.add
    for term, index, kind, data in message.entries:
        add(term=term, index=index, kind=kind, data=data)
    return wire


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
