"""What `Connection.receive` reports, in the order of the bytes."""

from dataclasses import dataclass

from raykube.rpc.core.frames import ErrorCode
from raykube.rpc.core.heads import RequestHead
from raykube.rpc.errors import Code


@dataclass(slots=True)
class CallOpened:
    """Server: a new call. Answer with `respond`, or `send_message`s and `finish`."""

    stream: int
    head: RequestHead


@dataclass(slots=True)
class MessageReceived:
    """One whole message, `Compressed` or as it is.

    Say `taken(stream, message)` when its consumer has it, or the peer's window stays smaller.
    """

    stream: int
    message: bytes


@dataclass(slots=True)
class PeerEnded:
    """Server: the client sends no more messages in this call."""

    stream: int


@dataclass(slots=True)
class CallCancelled:
    """Server: the call is over; the client reset it or broke a rule. Nothing can be sent in it any more."""

    stream: int
    reason: str


@dataclass(slots=True)
class HeadReceived:
    """Client: the answer has begun. Not reported for an answer of a status only."""

    stream: int
    metadata: dict[str, str]


@dataclass(slots=True)
class CallFinished:
    """Client: the call's status. `unprocessed`: no handler saw the call, so it may be made again elsewhere."""

    stream: int
    code: Code
    message: str
    metadata: dict[str, str]
    unprocessed: bool = False


@dataclass(slots=True)
class SettingsReceived:
    """The peer's settings are in force: `streams_max` or windows may be other than before."""


@dataclass(slots=True)
class PingAnswered:
    """The peer answered the ping with this payload."""

    payload: bytes


@dataclass(slots=True)
class GoingAway:
    """The peer takes no new calls on this connection (GOAWAY); those up to `last_stream` go on."""

    last_stream: int
    code: int
    reason: str


@dataclass(slots=True)
class ConnectionEnded:
    """The peer broke a rule of the connection: write what is outgoing (GOAWAY), then close. Nothing follows.

    Every call under way was reported before as cancelled (server) or finished with UNAVAILABLE (client).
    """

    code: ErrorCode
    reason: str


Event = (
    CallOpened
    | MessageReceived
    | PeerEnded
    | CallCancelled
    | HeadReceived
    | CallFinished
    | SettingsReceived
    | PingAnswered
    | GoingAway
    | ConnectionEnded
)
