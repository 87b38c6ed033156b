"""An answer that comes later, for one who is called in the moment it comes: no task, no future, no turn of the loop."""

import asyncio
from collections.abc import Callable
from typing import Any


class Pending:
    """As a future, but for that. What `then` raises is the event loop's to report, and nothing to who answers."""

    __slots__ = ("_error", "_is_done", "_result", "_then")

    def __init__(self) -> None:
        self._is_done = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._then: Callable[[Pending], None] | None = None

    def then(self, then: Callable[["Pending"], None]) -> None:
        """Whom to call, once, with this; at once, if the answer is there. Must not follow `cancel`."""
        self._then = then
        if self._is_done:
            self._call()

    def done(self) -> bool:
        """Whether there is an answer, or nobody wants one any more."""
        return self._is_done

    def set_result(self, result: Any) -> None:
        self._result = result
        self._is_done = True
        self._call()

    def set_exception(self, error: BaseException) -> None:
        self._error = error
        self._is_done = True
        self._call()

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Any:
        return self._result

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._is_done = True
        self._then = None

    def _call(self) -> None:
        then, self._then = self._then, None
        if then is None:
            return
        try:
            then(self)
        except Exception as error:
            context = {"message": "an answer could not be handed on", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)
