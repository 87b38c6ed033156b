"""Raft messages that were put together by hand, read by protobuf."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv import wire
from raykube.kv.core.raft.messages import Entry, Kind, Message
from raykube.pb import raft_pb2

NUMBERS = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1))
# Around the sizes at which a length takes another byte.
DATA = st.sampled_from([0, 1, 100, 127, 128, 16_370, 16_383, 16_384, 40_000]).map(bytes)
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


@pytest.mark.parametrize("size", [2_097_151, 2_097_152, 5_000_000])
def test_long_entries(size: int) -> None:
    message = Message(Kind.APPEND, 1, 2, 3, entries=[Entry(1, 1, 0, bytes(size)), Entry(1, 2, 0, b"behind")])
    assert wire.decode(raft_pb2.Message.FromString(wire.Encoder().encode(message))) == message


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.booleans()), min_size=1))
def test_one_encoder_tells_entries_apart(asked: list[tuple[int, int, bool]]) -> None:
    """Slices of a log, and of one that another leader wrote; and proposals, which have no place in any."""
    log = [Entry(1 + index // 4, index, 0, b"entry %d" % index) for index in range(1, 11)]
    other = log[:3] + [Entry(9, index, 0, b"other %d" % index) for index in range(4, 11)]
    encoder = wire.Encoder()
    for number, (first, count, is_other) in enumerate(asked):
        entries = (other if is_other else log)[first - 1 : first - 1 + count]
        append = Message(Kind.APPEND, number, 1, 3, entries=entries)
        proposals = [Message(Kind.PROPOSE, 1, 2, 3, entries=[Entry(0, 0, 0, b"%d" % n)]) for n in (number, -number)]
        for message in (append, dataclasses.replace(append, to=99, commit=7), *proposals):
            assert wire.decode(raft_pb2.Message.FromString(encoder.encode(message))) == message


def test_what_several_members_get_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    entry = raft_pb2.Entry
    monkeypatch.setattr(raft_pb2, "Entry", lambda **fields: made.append(fields) or entry(**fields))
    encoder = wire.Encoder()
    first, second = ([Entry(1, index, 0, b"x") for index in range(at, at + 5)] for at in (1, 6))
    for to in (2, 3, 4):
        for entries in (first, second):
            encoder.encode(Message(Kind.APPEND, to, 1, 1, entries=entries))
    assert len(made) == 10
