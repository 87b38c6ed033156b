"""Progress as values: the supervisor says which step began and how it ended; who listens decides how it looks."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """Shows steps."""

    def begin(self, title: str) -> None: ...

    def end(self, title: str, seconds: float, detail: str) -> None: ...

    def fail(self, title: str) -> None: ...


class Step:
    """A running step; `detail` may be set before it ends."""

    def __init__(self) -> None:
        self.detail = ""


class Silent:
    """Listens to nothing."""

    def begin(self, title: str) -> None:
        pass

    def end(self, title: str, seconds: float, detail: str) -> None:
        pass

    def fail(self, title: str) -> None:
        pass


@contextmanager
def step(listener: Listener, title: str) -> Iterator[Step]:
    """Announces a step, and how it ended."""
    listener.begin(title)
    began = time.monotonic()
    running = Step()
    try:
        yield running
    except BaseException:
        listener.fail(title)
        raise
    listener.end(title, time.monotonic() - began, running.detail)
