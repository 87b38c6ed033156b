"""What a turn of the event loop has to write: at its end, or earlier when somebody knows that there will be no more."""

import asyncio
from collections.abc import Callable


class Turn:
    """The writes that wait. Belongs to the running event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._writes: list[Callable[[], None]] = []

    def add(self, write: Callable[[], None]) -> None:
        """`write` is called once, when the others of this turn have run or by `flush`; what it raises is reported."""
        if not self._writes:
            self._loop.call_soon(self.flush)
        self._writes.append(write)

    def flush(self) -> None:
        """Writes now."""
        writes, self._writes = self._writes, []
        for write in writes:
            try:
                write()
            except Exception as error:
                self._loop.call_exception_handler({"message": "a connection could not write", "exception": error})
