"""A few Raft nodes on one table, for transcripts: messages wait until they are delivered by a command."""

from raykube.kv.core.raft.log import Log
from raykube.kv.core.raft.membership import Member, Membership
from raykube.kv.core.raft.messages import Entry, EntryKind, HardState, Kind, Message, Snapshot
from raykube.kv.core.raft.node import Limits, Node
from tests.kit.transcript import Step

LIMITS = Limits(
    election_ticks=10, message_bytes_max=200, window_messages_max=3, gathered_bytes_max=150, uncommitted_bytes_max=1000
)


def describe(message: Message) -> str:
    """A message in one line."""
    parts = [f"{message.sender}→{message.to} {message.kind.name} term {message.term}"]
    match message.kind:
        case Kind.APPEND:
            entries = " ".join(f"{e.index}/{e.term}" + (f":{_data(e)}" if e.data else "") for e in message.entries)
            parts.append(f"after {message.index}/{message.log_term} commit {message.commit} [{entries}]")
        case Kind.APPEND_ANSWER:
            parts.append(f"{'reject' if message.reject else 'match'} {message.index}")
            if message.reject:
                parts.append(f"hint {message.hint}/{message.log_term}")
        case Kind.HEARTBEAT:
            parts.append(f"commit {message.commit} round {message.context}")
        case Kind.COMMIT:
            parts.append(f"commit {message.commit}")
        case Kind.HEARTBEAT_ANSWER:
            parts.append(f"round {message.context}")
        case Kind.VOTE | Kind.PRE_VOTE:
            parts.append(f"log {message.index}/{message.log_term}" + (" forced" if message.force else ""))
        case Kind.VOTE_ANSWER | Kind.PRE_VOTE_ANSWER:
            parts.append("no" if message.reject else "yes")
        case Kind.SNAPSHOT:
            assert message.snapshot is not None
            parts.append(f"at {message.snapshot.index}/{message.snapshot.term}")
        case Kind.READ_INDEX | Kind.READ_INDEX_ANSWER:
            parts.append(f"context {message.context} index {message.index}")
        case Kind.PROPOSE:
            parts.append("[" + " ".join(_data(entry) for entry in message.entries) + "]")
    return " ".join(parts)


def _data(entry: Entry) -> str:
    return "config" if entry.kind == EntryKind.CONFIG else entry.data.decode()


class RaftGroup:
    """The nodes, what is under way between them, and what each disk holds."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.under_way: list[Message] = []
        self.cut: set[int] = set()
        self._lines: list[str] = []
        self._draws = 0

    def _draw(self, below: int) -> int:
        self._draws += 1
        return (self._draws * 7) % below

    def handle(self, step: Step) -> str:
        """Carries out a command; returns what happened."""
        self._lines = []
        numbers = [int(argument) for argument in step.arguments if argument.lstrip("-").isdigit()]
        node = self.nodes.get(numbers[0]) if numbers else None
        match step.command:
            case "nodes":
                for member in range(1, numbers[0] + 1):
                    self._make(member, Membership.of(*range(1, numbers[0] + 1)))
            case "log":  # log 1 term 3 entries 1 1 2: sets a node's log by its terms
                member, term, *terms = numbers
                entries = [Entry(t, i, 0, b"") for i, t in enumerate(terms, 1)]
                self._make(member, self.nodes[member].membership, Log(entries=entries), HardState(term, 0, 0))
            case "campaign":
                assert node is not None
                node.campaign()
            case "tick":
                assert node is not None
                for _ in range(numbers[1] if len(numbers) > 1 else 1):
                    node.tick()
            case "propose":
                assert node is not None
                if not node.propose([step.arguments[1].encode()]):
                    self._lines.append("refused")
            case "forward":
                assert node is not None
                node.forward([Entry(0, 0, 0, step.arguments[1].encode())])
            case "read":
                assert node is not None
                node.read_index(numbers[1])
            case "transfer":
                assert node is not None
                node.transfer(numbers[1])
            case "join":  # a node that was added and knows nothing yet
                self._make(numbers[0], Membership())
            case "members":  # members 1 1 2 +3: node 1 proposes voters 1 and 2 and the learner 3
                assert node is not None
                learners = [Member(int(text[1:]), learner=True) for text in step.arguments if text.startswith("+")]
                membership = Membership((*Membership.of(*numbers[1:]).members, *learners))
                if not node.propose_membership(membership):
                    self._lines.append("refused")
            case "compact":
                assert node is not None
                log = node.log
                index = numbers[1]
                node.on_snapshot_saved(Snapshot(index, log.term(index) or 0, node.membership_at(index)), 0)
            case "cut":
                self.cut |= set(numbers)
            case "mend":
                self.cut.clear()
            case "drop":
                self._lines += [f"lost: {describe(message)}" for message in self.under_way]
                self.under_way.clear()
            case "lost-peer":
                assert node is not None
                node.on_peer_lost(numbers[1])
            case "stabilize":
                return self._stabilize()
            case "status":
                return "\n".join(self._status(node) for _, node in sorted(self.nodes.items()))
            case _:
                raise ValueError(f"unknown command {step.command}")
        for member in sorted(self.nodes):
            self._drain(member)
        return "\n".join(self._lines)

    def _make(self, member: int, membership: Membership, log: Log | None = None, hard: HardState | None = None) -> None:
        self.nodes[member] = Node(member, membership, self._draw, log, hard, LIMITS)

    def _drain(self, member: int) -> None:
        node = self.nodes[member]
        while True:
            ready = node.ready()
            node.let_go(ready.hold)
            self.under_way += ready.messages
            write = ready.write
            if write is not None:
                if write.hard_state is not None or write.entries:
                    state = write.hard_state
                    self._lines.append(
                        f"{member} writes"
                        + (f" term {state.term} vote {state.vote}" if state else "")
                        + (f" entries {write.entries[0].index}-{write.entries[-1].index}" if write.entries else "")
                        + (f" snapshot {write.snapshot.index}" if write.snapshot else "")
                    )
                node.persisted(write)
                self.under_way += write.messages
            for entry in ready.committed:
                self._lines.append(f"{member} applies {entry.index}/{entry.term} {_data(entry)}".rstrip())
            for state in ready.read_states:
                self._lines.append(f"{member} may read for {state.context} at {state.index}")
            if write is None and not ready.committed:
                return

    def _stabilize(self) -> str:
        while self.under_way:
            message = self.under_way.pop(0)
            if message.sender in self.cut or message.to in self.cut or message.to not in self.nodes:
                self._lines.append(f"lost: {describe(message)}")
                continue
            self._lines.append(describe(message))
            self.nodes[message.to].step(message)
            self._drain(message.to)
        return "\n".join(self._lines)

    @staticmethod
    def _status(node: Node) -> str:
        text = (
            f"{node.id}: {node.role.value} term {node.term} leader {node.leader} "
            f"log {node.log.base}..{node.log.last} committed {node.log.committed}"
        )
        for member, progress in sorted(node.progress.items()):
            text += f"\n   {member}: {progress.sending.value} match {progress.match} next {progress.next}"
        return text
