"""Joined writes: all or none, in one step, and not before all members know what that is."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.kv.core.mvcc.machine import LEVEL, Command, Machine
from raykube.kv.core.mvcc.store import Store
from raykube.pb import raft_pb2
from raykube.pb.batch_pb2 import BatchRequest, BatchResponse, Write
from raykube.rpc import Code, RpcError
from tests.kit.waiting import until
from tests.kv.group import Group, running_group


def write(key: str, expected: int, joined: bool = False, value: str = "new") -> Write:
    return Write(key=key.encode(), value=value.encode(), expected_revision=expected, joined=joined)


def value(store: Store, key: str) -> str | None:
    found = store.get(key.encode())
    return None if found is None or found.value is None else found.value.decode()


def test_all_are_written_with_revisions_of_their_own() -> None:
    store = Store()
    first, second = store.apply_joined([write("a", 0), write("b", 0, True)])
    assert first.applied
    assert second.applied
    assert second.revision == first.revision + 1


def test_one_that_does_not_hold_stops_its_company_and_nobody_else() -> None:
    store = Store()
    (there,) = store.apply_joined([write("b", 0, value="old")])
    outcomes = store.apply_joined(
        [
            write("x", 0),
            write("a", 0),
            write("b", 0, True),
            write("c", 0, True),
            write("d", 0),
            write("e", 0),
            write("f", 0, True),
        ]
    )
    assert [outcome.applied for outcome in outcomes] == [True, False, False, False, True, True, True]
    assert value(store, "a") is None
    assert value(store, "b") == "old"
    refused = outcomes[2].current
    assert refused is not None
    assert refused.mod == there.revision


def test_a_key_twice_is_refused() -> None:
    store = Store()
    outcomes = store.apply_joined([write("a", 0), write("a", 0, True)])
    assert not any(outcome.applied for outcome in outcomes)
    assert value(store, "a") is None


@given(st.lists(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), min_size=1, max_size=4), max_size=8))
def test_no_group_is_ever_half_written(groups: list[list[tuple[str, bool]]]) -> None:
    store = Store()
    for number, group in enumerate(groups):
        writes: list[Write] = []
        for key, honest in group:
            there = store.get(key.encode())
            revision = 0 if there is None else there.mod
            writes.append(write(key, revision if honest else revision + 1000, bool(writes), str(number)))
        before = store.revision
        outcomes = store.apply_joined(writes)
        applied = [outcome.applied for outcome in outcomes]
        assert all(applied) or not any(applied)
        assert store.revision == before + len(group) * all(applied)


def test_a_plain_batch_is_what_it_always_was() -> None:
    """Members that do not know joined writes apply a BATCH write by write, whatever is in it."""
    machine = Machine()
    body = BatchRequest(writes=[write("a", 0), write("b", 7, True), write("c", 0, True)]).SerializeToString()
    answer = BatchResponse.FromString(machine.apply(Command.BATCH, body, True))
    assert [result.applied for result in answer.results] == [True, False, True]
    body = BatchRequest(writes=[write("d", 0), write("e", 7, True), write("f", 0, True)]).SerializeToString()
    answer = BatchResponse.FromString(machine.apply(Command.JOINED_BATCH, body, True))
    assert not any(result.applied for result in answer.results)


async def say_level(group: Group, name: str, level: int) -> None:
    """The member says in the log that it can apply commands up to `level`; all have heard it afterwards."""
    member = group.services[name].member
    assert member is not None
    said = raft_pb2.Attributes.FromString(member.replica.machine.attributes[member.id].SerializeToString())
    said.level = level
    await member.propose(Command.ATTRIBUTES, said.SerializeToString())
    await group.agree()


def all_published(group: Group) -> bool:
    members = [service.member for service in group.services.values()]
    return all(member is not None and len(member.replica.machine.attributes) == len(members) for member in members)


async def test_a_group_with_an_older_member_refuses_them_and_nothing_else(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await until(lambda: all_published(group))
        await say_level(group, "m2", Command.VOUCH)
        with pytest.raises(RpcError, match="older version") as caught:
            await group.client.write([write("a", 0), write("b", 0, True)])
        assert caught.value.code is Code.FAILED_PRECONDITION
        (alone,) = await group.client.write([write("a", 0)])
        assert alone.applied
        await say_level(group, "m2", LEVEL)
        results = await group.client.write([write("a", 0), write("b", 0, True)])
        assert [result.applied for result in results] == [False, False]
        results = await group.client.write([write("b", 0), write("c", 0, True)])
        assert [result.applied for result in results] == [True, True]
        await group.agree()
