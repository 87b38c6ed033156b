"""Watch messages made by hand are those that protobuf makes."""

from hypothesis import given
from hypothesis import strategies as st

from raykube.apiserver.core import eventwire
from raykube.apiserver.core.item import Item
from raykube.pb import api_pb2

sizes = st.sampled_from([1, 127, 128, 16_383, 16_384, 70_000, 2_100_000])
revisions = st.one_of(st.integers(1, 300), st.integers(1, (1 << 63) - 1))
events = st.lists(st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED"]), sizes, revisions), max_size=4)


def shown(message: eventwire.Encoded) -> list[tuple[int, bytes, int]]:
    response = api_pb2.WatchResponse.FromString(message.SerializeToString())
    assert response.SerializeToString() == message.SerializeToString()
    return [(each.type, each.object, each.resource_version) for each in response.events]


@given(events, st.booleans())
def test_messages_are_those_of_protobuf(drawn, shared) -> None:
    made = [(kind, Item("a/x", revision, b"x" * size)) for kind, size, revision in drawn]
    expected = [(getattr(api_pb2, kind), item.data, item.revision) for kind, item in made]
    assert shown(eventwire.message(made, shared=shared)) == expected


def test_an_event_is_encoded_once_for_all_watchers_of_it_and_as_each_sees_it() -> None:
    item, other = Item("a/x", 5, b"{}"), Item("a/y", 6, b"[]")
    alone = eventwire.message([("ADDED", item)])
    again = eventwire.message([("MODIFIED", item), ("ADDED", other)])
    assert shown(alone) == [(api_pb2.ADDED, b"{}", 5)]
    assert shown(again) == [(api_pb2.MODIFIED, b"{}", 5), (api_pb2.ADDED, b"[]", 6)]
    assert eventwire.message([("ADDED", item)]).data is alone.data  # the same bytes, not equal ones


def test_another_version_is_what_the_client_gets() -> None:
    item = Item("a/x", 5, b"stored")
    assert shown(eventwire.message([("ADDED", item)], lambda each: each.data + b"!")) == [
        (api_pb2.ADDED, b"stored!", 5)
    ]
