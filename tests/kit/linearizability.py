"""Is a history linearizable? The search of Wing and Gong, with Lowe's memory of what was tried, and unknown outcomes.

A *history* is what clients saw: operations with the moments they were asked and answered. It is linearizable when each
operation can be given one instant between these two moments, such that the operations, carried out one after the other
at their instants, answer what they answered. An operation whose answer never came (`ended` is infinite) may have its
instant at any time after it was asked, or none at all.

    time ─────────────────────────────────────►
    A  ├──write 1──┤      ├──────read: 2──┤
    B       ├────write 2─────────┤                  linearizable: write 1, write 2, read
    C                 ├read: 1┤                     still: write 1, read 1, write 2, read 2

The search walks over the moments. It keeps *configurations*: which of the operations under way have had their instant,
and the state then. An instant is given only when an answer forces it (just in time); of two configurations that differ
by operations of unknown outcome alone, the one that used fewer is enough. The model says what operations do.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

State = TypeVar("State", bound=Hashable)

CONFIGURATIONS_MAX = 200_000  # more: the history has too many unknown outcomes on one object to be decided


@dataclass(frozen=True, slots=True)
class Operation:
    """One call: `request` was sent at `started`, and `answer` came at `ended` (infinite: it never came)."""

    started: float
    ended: float
    request: Any
    answer: Any = None
    client: str = ""

    @property
    def is_unknown(self) -> bool:
        return math.isinf(self.ended)

    def __str__(self) -> str:
        end = "…" if self.is_unknown else f"{self.ended:.4f}"
        answer = "unknown" if self.is_unknown else self.answer
        return f"{self.client or '-'} [{self.started:.4f}, {end}] {self.request} → {answer}"


class Model(ABC, Generic[State]):
    """What operations do to one object. `initial` is its state before the first.

    Made with the history it will judge: a model may look ahead.
    """

    initial: State

    def __init__(self, history: Sequence[Operation] = ()) -> None:
        pass

    @abstractmethod
    def step(self, state: State, operation: Operation) -> tuple[bool, State]:
        """Whether `operation` can have answered as it did in `state`, and the state after it.

        One of unknown outcome is asked about only as having taken effect.
        """

    def is_plausible(self, state: State) -> bool:
        """False cuts off a search: nothing that was seen later fits to this state."""
        return True

    def written(self, operation: Operation) -> Hashable:
        """The value that only this operation brings into the object; None: it brings none, or is not the only one."""
        return None

    def needed(self, operation: Operation) -> Iterable[Hashable]:
        """The values that it must have met if it took effect."""
        return ()

    def observed(self, operation: Operation) -> Iterable[Hashable]:
        """The values that its answer shows to be in the object."""
        return ()


@dataclass(frozen=True)
class Verdict:
    """The answer, and when it is no: the operation that fits nowhere, the states it met, and what was under way."""

    is_linearizable: bool
    stuck: Operation | None = None
    states: tuple[Any, ...] = ()
    under_way: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        if self.is_linearizable:
            return "linearizable"
        lines = [f"not linearizable: {self.stuck}", "  the object may have been: "]
        lines[-1] += ", ".join(repr(state) for state in self.states[:8])
        return "\n".join([*lines, "  under way then:", *(f"    {operation}" for operation in self.under_way[:20])])


class TooHard(Exception):
    """The history has more configurations than can be tried."""


def check(model: Model[Any], history: Iterable[Operation]) -> Verdict:
    """Decides on the history of one object. Raises TooHard."""
    return _Search(model, settle(model, history)).run()


def settle(model: Model[Any], history: Iterable[Operation]) -> list[Operation]:
    """The history with fewer unknown outcomes, linearizable when and only when the given one is.

    A value of one writer's own that somebody saw was written before that; one that nobody ever saw changed no answer.
    """
    operations = list(history)
    seen_at: dict[Hashable, float] = {}
    for operation in operations:
        if not operation.is_unknown:
            for value in model.observed(operation):
                seen_at[value] = min(seen_at.get(value, math.inf), operation.ended)
    # What an operation of unknown outcome needs was there before the operation's own value was seen. Infinite: perhaps.
    is_growing = True
    while is_growing:
        is_growing = False
        for operation in operations:
            value = model.written(operation)
            if operation.is_unknown and (value is None or value in seen_at):
                before = math.inf if value is None else seen_at[value]
                for needed in model.needed(operation):
                    if needed not in seen_at or seen_at[needed] > before:
                        seen_at[needed] = before
                        is_growing = True
    settled = []
    for operation in operations:
        if operation.is_unknown:
            value = model.written(operation)
            if value is not None:
                if value not in seen_at:
                    continue
                if seen_at[value] >= operation.started:  # else somebody saw the future, and the search will say so
                    operation = replace(operation, ended=seen_at[value])
        elif operation.ended < operation.started:
            raise ValueError(f"it ended before it started: {operation}")
        settled.append(operation)
    return settled


class _Search:
    """Configurations are pairs (taken, state); bit n of `taken` is the operation under way in slot n."""

    def __init__(self, model: Model[Any], operations: Sequence[Operation]) -> None:
        self._model = model
        self._operations = operations
        self._slots: dict[int, Operation] = {}
        self._unknown = 0  # slots of unknown outcomes
        self._configurations: set[tuple[int, Any]] = {(0, model.initial)}

    def run(self) -> Verdict:
        moments = [(operation.started, 0, number) for number, operation in enumerate(self._operations)]
        moments += [
            (operation.ended, 1, number)
            for number, operation in enumerate(self._operations)
            if not operation.is_unknown
        ]
        slot_of: dict[int, int] = {}
        free: list[int] = []
        # Of one moment, who asks comes first: what touches is taken to overlap.
        for _, is_end, number in sorted(moments):
            operation = self._operations[number]
            if not is_end:
                slot = free.pop() if free else len(self._slots)
                slot_of[number] = slot
                self._slots[slot] = operation
                if operation.is_unknown:
                    self._unknown |= 1 << slot
                continue
            slot = slot_of.pop(number)
            before = self._configurations
            self._configurations = self._after(slot)
            if not self._configurations:
                under_way = tuple(each for each in self._slots.values() if each not in (operation, _NOTHING))
                return Verdict(False, operation, tuple({state for _, state in before}), under_way)
            free.append(slot)
            self._slots[slot] = _NOTHING
        return Verdict(True)

    def _after(self, slot: int) -> set[tuple[int, Any]]:
        """The configurations in which the operation in `slot` has had its instant; its bit is given back."""
        bit = 1 << slot
        found = _Frugal(self._unknown)
        tried = _Frugal(self._unknown)
        frontier = []
        for taken, state in self._configurations:
            if taken & bit:
                found.add(taken & ~bit, state)
            elif tried.add(taken, state):
                frontier.append((taken, state))
        under_way = [
            (each, 1 << each, operation) for each, operation in self._slots.items() if operation is not _NOTHING
        ]
        while frontier:
            following = []
            for taken, state in frontier:
                for each, mark, operation in under_way:
                    if taken & mark:
                        continue
                    fits, after = self._model.step(state, operation)
                    if not fits or not self._model.is_plausible(after):
                        continue
                    if each == slot:
                        found.add(taken, after)
                    elif tried.add(taken | mark, after):
                        following.append((taken | mark, after))
            if tried.count > CONFIGURATIONS_MAX:
                raise TooHard(f"{tried.count} configurations before {self._slots[slot]}")
            # What was found to be dominated meanwhile leads nowhere new.
            frontier = [each for each in following if tried.has(*each)]
        return set(found)


class _Frugal:
    """Configurations without those that reach the same with more operations of unknown outcome."""

    def __init__(self, unknown: int) -> None:
        self._unknown = unknown
        self._used: dict[tuple[int, Any], list[int]] = {}
        self.count = 0

    def add(self, taken: int, state: Any) -> bool:
        """False when an equal or better one is there."""
        used = taken & self._unknown
        others = self._used.setdefault((taken & ~self._unknown, state), [])
        if any(other & used == other for other in others):
            return False
        kept = [other for other in others if used & other != used]
        self.count += 1 + len(kept) - len(others)
        others[:] = [*kept, used]
        return True

    def has(self, taken: int, state: Any) -> bool:
        return taken & self._unknown in self._used.get((taken & ~self._unknown, state), ())

    def __iter__(self) -> Any:
        return ((known | used, state) for (known, state), many in self._used.items() for used in many)


_NOTHING = Operation(0.0, 0.0, None)
