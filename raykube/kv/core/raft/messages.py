"""The values that go in and out of a Raft node."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from raykube.kv.core.raft.membership import Membership


class EntryKind(IntEnum):
    """What an entry's data is. The numbers are on disk."""

    NORMAL = 0  # the state machine's, or empty: a leader's first entry
    CONFIG = 1  # an encoded Membership


class Entry(NamedTuple):
    """One place in the log."""

    term: int
    index: int  # type: ignore[assignment] # a tuple has a method of this name; entries are not searched
    kind: int
    data: bytes


class Kind(IntEnum):
    """What a message is. The numbers are on the wire."""

    APPEND = 1
    APPEND_ANSWER = 2
    HEARTBEAT = 3
    HEARTBEAT_ANSWER = 4
    PRE_VOTE = 5
    PRE_VOTE_ANSWER = 6
    VOTE = 7
    VOTE_ANSWER = 8
    SNAPSHOT = 9
    PROPOSE = 10  # a follower passes its clients' proposals to the leader of its term, and to no other
    READ_INDEX = 11
    READ_INDEX_ANSWER = 12
    TIMEOUT_NOW = 13
    COMMIT = 14  # a heartbeat that wants no answer: more is committed


class HardState(NamedTuple):
    """What a member must never forget. `commit` is a hint that saves work after a restart."""

    term: int = 0
    vote: int = 0
    commit: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point in the log up to which the state machine's image stands for the entries."""

    index: int
    term: int
    membership: Membership
    data: bytes | Iterable[bytes] = b""  # the image, perhaps in pieces; empty where it has its place on disk


@dataclass(slots=True)
class Message:
    """One message from `sender` to `to`. Which fields mean something depends on `kind`."""

    kind: Kind
    to: int
    sender: int
    term: int
    log_term: int = 0
    index: int = 0
    entries: Sequence[Entry] = ()
    commit: int = 0  # in an APPEND_ANSWER with `force`: where the sender's log ends now
    reject: bool = False  # in a HEARTBEAT_ANSWER: the sender's disk is full
    hint: int = 0  # in a HEARTBEAT: a member whose disk is full
    context: int = 0
    force: bool = False  # in a vote: the leader told it to; in an APPEND_ANSWER: the sender lost what it acknowledged
    snapshot: Snapshot | None = None


class ReadState(NamedTuple):
    """A reader that came with `context` may read once `index` is applied."""

    context: int
    index: int  # type: ignore[assignment] # as in Entry


@dataclass(slots=True)
class Write:
    """What must be durable before `messages` may leave."""

    hard_state: HardState | None
    entries: list[Entry]
    snapshot: Snapshot | None
    messages: list[Message]

    @property
    def touches_disk(self) -> bool:
        return self.hard_state is not None or bool(self.entries) or self.snapshot is not None


@dataclass(slots=True)
class Ready:
    """What a node wants done; see the package's order of durability."""

    messages: list[Message] = field(default_factory=list)
    write: Write | None = None
    committed: list[Entry] = field(default_factory=list)
    read_states: list[ReadState] = field(default_factory=list)
    hold: int = 0  # the number of one that began (gathering.py), 0: none; `Node.let_go` it when it has lasted
    hold_rounds: float = 0.0  # how long that is: `gathering.hold_s`
    has_left: bool = False  # new entries left: a round began
