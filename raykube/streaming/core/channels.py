"""Channels over a WebSocket: every message is a channel's number and that channel's bytes.

    v4.channel.k8s.io         0x01 "hello"        stdout says hello
    v4.base64.channel.k8s.io  "1aGVsbG8="         the same, for those who can send text only
    v5.channel.k8s.io         0xff 0x00           v4, and: stdin has ended

Exec and attach number their streams as `Channel` does. Port-forward has a pair of channels for the port at index i:
2i carries data, 2i+1 an error message; the first message of each is the port, 16 bits, little-endian.
"""

import base64
import binascii
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

V4 = "v4.channel.k8s.io"
V4_BASE64 = "v4.base64.channel.k8s.io"
V5 = "v5.channel.k8s.io"
REMOTE_COMMAND = (V5, V4, V4_BASE64)
PORT_FORWARD = (V4, V4_BASE64)
PORTS_MAX = 100
CLOSE = 255


class Channel(IntEnum):
    """The streams of exec and attach; their names in lower case are SPDY's stream types."""

    STDIN = 0
    STDOUT = 1
    STDERR = 2
    ERROR = 3
    RESIZE = 4


class ChannelError(Exception):
    """A message or parameter makes no sense."""


@dataclass(frozen=True, slots=True)
class Message:
    channel: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """The other side will send no more on this channel."""

    channel: int


def negotiate(offered: Iterable[str], served: Sequence[str]) -> str:
    """The first protocol offered that is served; "" for none."""
    return next((protocol for protocol in offered if protocol in served), "")


def encode(protocol: str, channel: int, data: bytes) -> bytes:
    """The message that carries `data`; text (ASCII) for a base64 protocol."""
    if protocol == V4_BASE64:
        return str(channel).encode() + base64.b64encode(data)
    return bytes((channel,)) + data


def encode_close(channel: int) -> bytes:
    """The message of v5 that ends a channel."""
    return bytes((CLOSE, channel))


def decode(protocol: str, message: bytes) -> Message | Closed:
    """Raises ChannelError for an empty or broken message."""
    if not message:
        raise ChannelError("a message without a channel")
    if protocol == V4_BASE64:
        try:
            return Message(int(message[:1]), base64.b64decode(message[1:], validate=True))
        except (ValueError, binascii.Error):
            raise ChannelError("a message is no channel digit and base64") from None
    if protocol == V5 and message[0] == CLOSE:
        if len(message) != 2:
            raise ChannelError("a close message names one channel")
        return Closed(message[1])
    return Message(message[0], message[1:])


def streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> tuple[Channel, ...]:
    """The streams of a session, in the order in which they are opened. A terminal has no stderr of its own."""
    wanted = (
        (Channel.ERROR, True),
        (Channel.STDIN, stdin),
        (Channel.STDOUT, stdout),
        (Channel.STDERR, stderr and not tty),
        (Channel.RESIZE, tty),
    )
    return tuple(channel for channel, there in wanted if there)


def ports(texts: Iterable[str]) -> list[int]:
    """The ports of a port-forward's `ports` parameters, each a list with commas. Raises ChannelError."""
    found = [part for text in texts for part in text.split(",")]
    if not found:
        raise ChannelError('query parameter "port" is required')
    if len(found) > PORTS_MAX:
        raise ChannelError(f"at most {PORTS_MAX} ports can be forwarded by one connection")
    return [port(text) for text in found]


def port(text: str) -> int:
    """Raises ChannelError."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise ChannelError(f'unable to parse "{text}" as a port')
    return int(text)


def port_message(port: int) -> bytes:
    """What a port-forward's channel says first."""
    return struct.pack("<H", port)
