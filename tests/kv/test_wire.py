"""Raft messages that were put together by hand, read by protobuf."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from raykube.kv import wire
from raykube.kv.core.raft.messages import Entry, Kind, Message
from raykube.pb import raft_pb2

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
# Around the sizes at which a length takes another byte.
DATA = st.sampled_from([0, 1, 100, 127, 128, 16_370, 16_383, 16_384, 40_000]).map(lambda size: b"\x00\xff"[:1] * size)
ENTRIES = st.lists(st.builds(Entry, NUMBERS, NUMBERS, st.integers(0, 3), st.one_of(DATA, st.binary(max_size=20))))
MESSAGES = st.builds(
    Message,
    st.sampled_from([kind for kind in Kind if kind is not Kind.SNAPSHOT]),
    NUMBERS, NUMBERS, NUMBERS, NUMBERS, NUMBERS, ENTRIES, NUMBERS, st.booleans(), NUMBERS, NUMBERS, st.booleans(),
)  # fmt: skip


def opening() -> raft_pb2.MessageBatch:
    return raft_pb2.MessageBatch(cluster_id=1 << 63, sender=2, to=3, sender_urls=["http://a:1"], incarnation=9)


@given(st.lists(MESSAGES, max_size=4))
def test_what_is_encoded_is_decoded(messages: list[Message]) -> None:
    found = raft_pb2.MessageBatch.FromString(
        wire.batch(opening().SerializeToString(), [wire.Encoder().encode(message) for message in messages])
    )
    assert [wire.decode(message) for message in found.messages] == messages
    found.ClearField("messages")
    assert found == opening()


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1))
def test_one_encoder_tells_entries_apart(asked: list[tuple[int, int]]) -> None:
    """Slices of one log, and proposals, which have no place in it."""
    log = [Entry(1 + index // 4, index, 0, b"entry %d" % index) for index in range(1, 11)]
    encoder = wire.Encoder()
    for number, (first, count) in enumerate(asked):
        append = Message(Kind.APPEND, number, 1, 3, entries=log[first - 1 : first - 1 + count])
        proposals = [Message(Kind.PROPOSE, 1, 2, 3, entries=[Entry(0, 0, 0, b"%d" % n)]) for n in (number, -number)]
        for message in (append, dataclasses.replace(append, to=99, commit=7), *proposals):
            assert wire.decode(raft_pb2.Message.FromString(encoder.encode(message))) == message
