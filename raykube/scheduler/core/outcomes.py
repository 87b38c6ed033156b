"""What became of pods under one scheduler, and under two: where they went, and how long they waited.

Pods are known by uid, so that two outcomes are of the same pods whatever scheduler, configuration or version made them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(slots=True)
class Outcome:
    """What became of one pod. `node` is "" while it has none: `why` is the scheduler's message then."""

    namespace: str
    name: str
    uid: str
    came: float  # seconds of the recording, as `placed` is
    node: str = ""
    placed: float | None = None  # None: it has no node, or came with it
    why: str = ""
    evicted: bool = False  # by a pod of higher priority
    evicts: list[str] = field(default_factory=list)  # namespace/name


class Summary(NamedTuple):
    """Of all pods of one side."""

    placed: int
    left: int  # without a node at the end
    nodes: int  # that got one at least
    evicted: int
    wait_mean_s: float  # of those placed
    wait_max_s: float

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> "Summary":
        outcomes = list(outcomes)
        placed = [one for one in outcomes if one.placed is not None]
        waits = [one.placed - one.came for one in placed if one.placed is not None]
        return cls(
            len(placed),
            sum(not one.node for one in outcomes),
            len({one.node for one in placed}),
            sum(one.evicted for one in outcomes),
            sum(waits) / len(waits) if waits else 0.0,
            max(waits, default=0.0),
        )


class Difference(NamedTuple):
    """A pod that the two sides treat differently."""

    pod: str  # namespace/name
    one: str  # its node; "none", or "evicted"
    other: str
    why: str  # what stood against it where it has no node


def differences(one: Iterable[Outcome], other: Iterable[Outcome]) -> list[Difference]:
    """Of the pods that both know, in the order of `one`."""
    known = {outcome.uid: outcome for outcome in other}
    found = []
    for mine in one:
        theirs = known.get(mine.uid)
        if theirs is not None and _place(mine) != _place(theirs):
            found.append(Difference(f"{mine.namespace}/{mine.name}", _place(mine), _place(theirs), _why(mine, theirs)))
    return found


def _place(outcome: Outcome) -> str:
    return "evicted" if outcome.evicted else outcome.node or "none"


def _why(one: Outcome, other: Outcome) -> str:
    return next((outcome.why for outcome in (one, other) if not outcome.node and outcome.why), "")
