"""Handlers as the server knows them: a function per method, and what it is called with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from raykube.rpc.errors import Code, RpcError
from raykube.rpc.methods import Method, methods_of
from raykube.rpc.tls import Identity


class Call:
    """What a handler learns of the call it answers."""

    __slots__ = ("_clock", "_identity", "_metadata", "deadline_s")

    def __init__(
        self,
        identity: Callable[[], Identity | None],
        metadata: Mapping[str, str],
        deadline_s: float | None,
        clock: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._metadata = metadata
        self.deadline_s = deadline_s
        self._clock = clock

    @property
    def identity(self) -> Identity | None:
        """Whom the client's certificate names; None on a connection without one (unix socket, plain TCP).

        Raises ValueError when it names nobody.
        """
        return self._identity()

    @property
    def metadata(self) -> dict[str, str]:
        """The request's headers, lower-case names."""
        return dict(self._metadata)

    def remaining_s(self) -> float | None:
        """Seconds until the client's deadline; None without one."""
        return None if self.deadline_s is None else max(0.0, self.deadline_s - self._clock())


class Receiver(ABC):
    """Takes the messages of a client that streams as they come, without a task. A handler returns one for its call.

    What `on_message` raises ends the call: an RpcError as it is.
    """

    @abstractmethod
    def on_message(self, message: Any) -> None:
        """The next message."""

    @abstractmethod
    def on_end(self) -> None:
        """There are no more: the client has sent all, or the call is over. Called once; must not raise."""


@dataclass(slots=True)
class Served:
    """A method and the function that answers it; None: not implemented.

    `waits`: the last call that was begun without a task needed one after all.
    """

    method: Method
    function: Callable[[Any, Call], Any] | None
    waits: bool = False

    def parse(self, message: bytes) -> Any:
        """Raises RpcError when it is no request of the method."""
        try:
            return self.method.request_type.FromString(message)
        except Exception as error:  # protobuf's own type is not the same in every implementation
            name = self.method.request_type.DESCRIPTOR.full_name
            raise RpcError(Code.INTERNAL, f"the request is no {name}: {error}") from None


def served_by(service: ServiceDescriptor, handler: object) -> Iterator[Served]:
    """All methods of `service`."""
    for method in methods_of(service):
        yield Served(method, getattr(handler, method.name, None))
