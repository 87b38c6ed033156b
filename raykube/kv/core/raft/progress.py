"""What a leader knows of one follower's log, and how it sends to it."""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum


class Sending(Enum):
    """How entries go to a follower."""

    PROBE = "probe"  # its log is not known: one message, then wait
    REPLICATE = "replicate"  # it follows: a window of messages in flight
    SNAPSHOT = "snapshot"  # it is so far behind that a snapshot is on its way


@dataclass(slots=True)
class Progress:
    """`match` is known to be on the follower's disk; `next` is the first entry not sent yet."""

    match: int = 0
    next: int = 1
    sending: Sending = Sending.PROBE
    is_probe_sent: bool = False
    in_flight: deque[tuple[int, int]] = field(default_factory=deque)  # last index and bytes of each unanswered message
    in_flight_bytes: int = 0
    snapshot_index: int = 0
    is_active: bool = False  # heard of since the last check of the quorum
    is_disk_full: bool = False  # as it said last
    lacks_room: bool = False  # the last snapshot for it was not taken: it had nowhere to put it
    silent_ticks: int = 0  # since it was heard of
    commit_told: int = 0  # what it was told to be committed, if nothing was lost since
    awaited: int = 0  # somebody waits there for what is up to here: a proposal of its own, or a read
    round_confirmed: int = 0  # newest heartbeat round it answered

    @property
    def has_no_room(self) -> bool:
        """Whether its disk keeps it from following. One on which a snapshot does not fit has room for all the rest."""
        return self.is_disk_full or (self.lacks_room and self.sending is not Sending.REPLICATE)

    def on_heard(self) -> None:
        """The follower answered something."""
        self.is_active = True
        self.silent_ticks = 0

    def may_send(self, messages_max: int, bytes_max: int) -> bool:
        """Whether entries may go now. One message may go beyond `bytes_max`, so that a large one is not stuck."""
        if self.sending is Sending.PROBE:
            return not self.is_probe_sent
        return (
            self.sending is Sending.REPLICATE
            and len(self.in_flight) < messages_max
            and self.in_flight_bytes < bytes_max
        )

    def on_sent(self, last: int, count: int, size: int) -> None:
        """A message with `count` entries up to `last`, of `size` bytes, went out."""
        if self.sending is Sending.REPLICATE:
            if count:
                self.next = last + 1
                self.in_flight.append((last, size))
                self.in_flight_bytes += size
        else:
            self.is_probe_sent = True

    def forget_oldest(self) -> None:
        """The answer to the oldest message may be lost: the window must not stay shut for ever."""
        if self.in_flight:
            self.in_flight_bytes -= self.in_flight.popleft()[1]

    def on_accepted(self, index: int) -> bool:
        """The follower's disk matches up to `index`; returns whether that is news. Late answers never move it back."""
        while self.in_flight and self.in_flight[0][0] <= index:
            self.forget_oldest()
        news = index > self.match
        if news:
            self.match = index
        self.next = max(self.next, index + 1)
        return news

    def become_probe(self, agreed: int = 0) -> None:
        """Looks for where the logs agree, from `agreed` on: the follower's guess."""
        floor = self.snapshot_index if self.sending is Sending.SNAPSHOT else agreed
        self.next = max(self.match, floor) + 1
        self._enter(Sending.PROBE)

    def become_replicate(self) -> None:
        self.next = self.match + 1
        self._enter(Sending.REPLICATE)

    def become_snapshot(self, index: int) -> None:
        self._enter(Sending.SNAPSHOT)
        self.snapshot_index = index

    def _enter(self, sending: Sending) -> None:
        self.sending = sending
        self.is_probe_sent = False
        self.in_flight.clear()
        self.in_flight_bytes = 0
        self.snapshot_index = 0
        self.commit_told = 0
