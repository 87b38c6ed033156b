"""A client's call whose requests are pushed as they arise, and whose answers go to functions: no task, no queue.

For streams between parts that react to messages anyway: what an iterator and a task cost a message is a good part of
what handling it costs.
"""

import logging
from collections.abc import Callable
from typing import Any

from raykube.rpc.errors import Code, RpcError
from raykube.rpc.link import Link

log = logging.getLogger(__name__)

Parse = Callable[[bytes], Any]
OnMessage = Callable[[Any], None]
OnFinished = Callable[[BaseException | None], None]


class PushedCall:
    """A call under way on `link`. `on_message` gets each answer, `on_finished` the error that the call became, or None.

    Both are called from within the connection, and not after `cancel`. An `on_message` that raises ends the call with
    INTERNAL.
    """

    def __init__(self, link: Link, path: str, parse: Parse, on_message: OnMessage, on_finished: OnFinished) -> None:
        self._link = link
        self._parse = parse
        self._on_message = on_message
        self._on_finished = on_finished
        self._number = link.open(path, None, self)

    def send(self, message: bytes) -> bool:
        """Writes a message now. False: enough waits to be sent, go on when there is room."""
        return self._link.push(self._number, message)

    def when_room(self, then: Callable[[], None]) -> None:
        """Calls `then` once the call takes more messages, or is over; soon, if that is so now."""
        self._link.writer(self._number).add_done_callback(lambda _: then())

    def cancel(self) -> None:
        """Gives the call up. Idempotent."""
        self._link.cancel(self._number)

    # What the link says

    def on_message(self, message: bytes) -> RpcError | None:
        self._link.taken(self._number, message)
        try:
            self._on_message(self._parse(message))
        except RpcError as error:
            return error
        except Exception as error:
            log.exception("a message was not taken")
            return RpcError(Code.INTERNAL, f"{type(error).__name__}: {error}")
        return None

    def on_finished(self, error: BaseException | None) -> None:
        self._on_finished(error)
