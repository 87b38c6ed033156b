"""Tickets for streams: CRI answers Exec, Attach and PortForward with an address that is good once, for a minute."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

LIFE_S = 60.0
TICKETS_MAX = 1000


class TooMany(Exception):
    """Too many tickets are out."""


@dataclass(frozen=True, slots=True)
class _Ticket(Generic[T]):
    request: T
    until: float


class Tickets(Generic[T]):
    """What each token was given out for."""

    def __init__(self) -> None:
        self._tickets: dict[str, _Ticket[T]] = {}  # the oldest first

    def issue(self, token: str, request: T, now: float) -> None:
        """Raises TooMany."""
        for old in list(self._tickets):
            if self._tickets[old].until > now:
                break
            del self._tickets[old]
        if len(self._tickets) >= TICKETS_MAX:
            raise TooMany("maximum number of in-flight requests exceeded")
        self._tickets[token] = _Ticket(request, now + LIFE_S)

    def redeem(self, token: str, now: float) -> T | None:
        """The request, once; None for a token that is unknown, used or too old."""
        ticket = self._tickets.pop(token, None)
        return ticket.request if ticket is not None and ticket.until > now else None
