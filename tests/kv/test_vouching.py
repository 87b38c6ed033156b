"""The table of who vouched for what: verdicts are functions of the log."""

from typing import cast

import pytest

from raykube.kv.core.mvcc.machine import Command, UnknownCommand, encode
from raykube.kv.core.mvcc.vouching import CHECKS_KEPT, Fence, Vouching
from tests.kv.lone_replica import LoneReplica

GOOD, BAD, WORSE = 0xAA, 0xBB, 0xCC


def table(*vouches: tuple[int, int], voters: tuple[int, ...] = (1, 2, 3), learners: tuple[int, ...] = ()) -> Vouching:
    """A table with a check at 10 and these members' words for it."""
    found = Vouching()
    found.on_check(10, voters, learners)
    for member, digest in vouches:
        found.on_vouch(member, 10, digest)
    return found


def test_a_quorum_settles_and_the_odd_one_is_fenced_whenever_it_speaks() -> None:
    early = table((3, BAD), (1, GOOD), (2, GOOD))
    late = table((1, GOOD), (2, GOOD), (3, BAD))
    for found in (early, late):
        assert found.checks[-1].settled == GOOD
        assert found.fenced == {3: Fence(10, BAD, GOOD)}
        assert not found.disputed


def test_one_word_is_not_a_quorum() -> None:
    found = table((1, GOOD), (1, GOOD))
    assert found.checks[-1].settled is None
    assert found.on_vouch(2, 10, GOOD) is found.checks[-1]
    assert found.checks[-1].settled == GOOD


def test_a_learner_is_judged_and_does_not_judge() -> None:
    found = table((9, BAD), (1, GOOD), voters=(1, 2, 3), learners=(9,))
    assert found.checks[-1].settled is None
    found.on_vouch(2, 10, GOOD)
    assert found.fenced == {9: Fence(10, BAD, GOOD)}
    found = table((8, BAD), (9, BAD), voters=(1,), learners=(8, 9))
    assert found.checks[-1].settled is None


def test_a_fenced_member_proves_itself_at_a_later_check_or_again_at_the_same() -> None:
    found = table((1, GOOD), (2, GOOD), (3, BAD))
    found.on_vouch(3, 10, GOOD)
    assert not found.fenced
    found = table((1, GOOD), (2, GOOD), (3, BAD))
    found.on_check(20, (1, 2, 3), ())
    found.on_vouch(3, 20, GOOD)
    assert 3 in found.fenced
    found.on_vouch(2, 20, GOOD)
    assert not found.fenced
    found.on_vouch(3, 10, BAD)  # late: what it said of 20 counts
    assert not found.fenced


def test_a_member_that_left_is_forgotten() -> None:
    found = table((1, GOOD), (2, GOOD), (3, BAD))
    found.on_check(20, (1, 2), (4,))
    assert not found.fenced


@pytest.mark.parametrize("voters", [(1, 2), (1, 2, 3, 4)])
def test_when_no_digest_can_get_a_quorum_there_is_a_dispute_until_one_does(voters: tuple[int, ...]) -> None:
    half = len(voters) // 2
    found = table(*((member, GOOD if member <= half else BAD) for member in voters), voters=voters)
    assert found.disputed == 10
    assert not found.fenced
    found.on_check(20, voters, ())
    assert found.disputed == 10
    for member in voters:
        found.on_vouch(member, 20, GOOD)
    assert not found.disputed


def test_two_digests_that_are_still_open_at_the_next_check_are_a_dispute() -> None:
    found = table((1, GOOD), (2, BAD))
    assert not found.disputed  # the third may speak yet
    found.on_check(20, (1, 2, 3), ())
    assert found.disputed == 10
    found.on_vouch(3, 10, BAD)
    assert not found.disputed
    assert found.fenced == {1: Fence(10, GOOD, BAD)}


def test_old_checks_are_forgotten_and_words_about_them_mean_nothing() -> None:
    found = table((1, GOOD))
    for number in range(CHECKS_KEPT):
        found.on_check(20 + number, (1, 2, 3), ())
    assert len(found.checks) == CHECKS_KEPT
    assert found.on_vouch(2, 10, GOOD) is None
    assert found.on_vouch(2, 99, GOOD) is None


def test_a_snapshot_carries_all_of_it() -> None:
    for found in (
        table((1, GOOD), (2, GOOD), (3, BAD)),
        table((1, GOOD), (2, BAD), (3, WORSE)),
        table((1, 0), (2, 0)),
        Vouching(),
    ):
        copy = Vouching.decode(found.encode())
        assert copy.encode() == found.encode()
        assert copy.checks == found.checks
        assert copy.fenced == found.fenced
        assert copy.disputed == found.disputed


def test_an_unknown_command_in_the_log_stops_the_member() -> None:
    member = LoneReplica()
    member.replica.node.propose([encode(1, cast(Command, 99), b"")])
    with pytest.raises(UnknownCommand, match="command 99: this program is older than the log"):
        member.settle()
