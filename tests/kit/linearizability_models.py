"""Objects whose histories can be checked: a register with compare-and-swap, a set, a list that only grows.

Writers use values of their own, each once, wherever they can: it makes unknown outcomes decidable (`settle`).
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from tests.kit.linearizability import Model, Operation


class Read(NamedTuple):
    """Answered with the state: a register's value or None, a frozenset, a tuple."""


class Write(NamedTuple):
    """Sets a register; None deletes it."""

    value: Hashable


class Swap(NamedTuple):
    """Sets a register if it is `expected`; answered with whether it was, and what it was."""

    expected: Hashable
    value: Hashable


class Add(NamedTuple):
    """Puts an element into a set, or at the end of a list."""

    value: Hashable


class Register(Model[Hashable]):
    """One value; None: there is none."""

    initial: Hashable = None

    def __init__(self, history: Sequence[Operation] = ()) -> None:
        self._writers = Counter(
            operation.request.value for operation in history if isinstance(operation.request, Write | Swap)
        )

    def step(self, state: Hashable, operation: Operation) -> tuple[bool, Hashable]:
        match operation.request:
            case Read():
                return operation.answer == state, state
            case Write(value):
                return True, value
            case Swap(expected, value) if operation.is_unknown or operation.answer is None:
                return state == expected, value
            case Swap(expected, value):
                is_done, was = operation.answer
                return state == was and is_done == (state == expected), value if is_done else state
        raise ValueError(f"a register cannot do {operation.request}")

    def written(self, operation: Operation) -> Hashable:
        match operation.request:
            case Write(value) | Swap(_, value) if self._writers[value] == 1:
                return value
        return None

    def needed(self, operation: Operation) -> Iterable[Hashable]:
        return (operation.request.expected,) if isinstance(operation.request, Swap) else ()

    def observed(self, operation: Operation) -> Iterable[Hashable]:
        match operation.request:
            case Read():
                return (operation.answer,)
            case Swap():
                return (operation.answer[1],)
        return ()


class GrowingSet(Model[frozenset[Hashable]]):
    """Elements are added, each by one operation, and never removed: every state lies between two that were read."""

    initial: frozenset[Hashable] = frozenset()

    def __init__(self, history: Sequence[Operation] = ()) -> None:
        reads = {operation.answer for operation in history if isinstance(operation.request, Read) and operation.answer}
        self._reads = sorted(reads, key=len)

    def step(self, state: frozenset[Hashable], operation: Operation) -> tuple[bool, frozenset[Hashable]]:
        match operation.request:
            case Read():
                return operation.answer == state, state
            case Add(value):
                return True, state | {value}
        raise ValueError(f"a set cannot do {operation.request}")

    def is_plausible(self, state: frozenset[Hashable]) -> bool:
        at = bisect_left(self._reads, len(state), key=len)
        return (at == 0 or self._reads[at - 1] <= state) and (at == len(self._reads) or state <= self._reads[at])

    def written(self, operation: Operation) -> Hashable:
        return operation.request.value if isinstance(operation.request, Add) else None

    def observed(self, operation: Operation) -> Iterable[Hashable]:
        return operation.answer if isinstance(operation.request, Read) else ()


class GrowingList(Model[tuple[Hashable, ...]]):
    """Elements are appended, each by one operation; the order is what is checked.

    The longest list that was read is where every earlier state must lead.
    """

    initial: tuple[Hashable, ...] = ()

    def __init__(self, history: Sequence[Operation] = ()) -> None:
        reads = [operation.answer for operation in history if isinstance(operation.request, Read) and operation.answer]
        self._longest: tuple[Any, ...] = max(reads, key=len, default=())

    def step(self, state: tuple[Hashable, ...], operation: Operation) -> tuple[bool, tuple[Hashable, ...]]:
        match operation.request:
            case Read():
                return operation.answer == state, state
            case Add(value):
                return True, (*state, value)
        raise ValueError(f"a list cannot do {operation.request}")

    def is_plausible(self, state: tuple[Hashable, ...]) -> bool:
        shared = min(len(state), len(self._longest))
        return state[:shared] == self._longest[:shared]

    def written(self, operation: Operation) -> Hashable:
        return operation.request.value if isinstance(operation.request, Add) else None

    def observed(self, operation: Operation) -> Iterable[Hashable]:
        return operation.answer if isinstance(operation.request, Read) else ()
