"""SPDY/3.1 byte by byte: what goes out, what comes in, and what is refused."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.streaming.core import spdy
from raykube.streaming.core.spdy import Connection, Data, Ended, GoneAway, Opened, Replied, Reset, SpdyError


def pair() -> tuple[Connection, Connection]:
    return Connection(server=False), Connection(server=True)


def joined(events: list[spdy.Event]) -> list[spdy.Event]:
    """Neighbouring data of one stream put together."""
    found: list[spdy.Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Data) and isinstance(last, Data) and last.stream == event.stream:
            found[-1] = Data(event.stream, last.data + event.data)
        else:
            found.append(event)
    return found


def test_the_dictionary_is_the_drafts() -> None:
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2  # as every compressed block names it


def test_frames_as_bytes() -> None:
    client, server = pair()
    assert client.open({"StreamType": "stdin"}) == 1
    frame = client.take_output()
    assert frame[:18] == struct.pack(">HHI IIH", 0x8003, 1, len(frame) - 8, 1, 0, 0)
    assert frame[18:20] == b"\x78\xf9"  # zlib, best compression, with a dictionary
    assert server.receive(frame) == [Opened(1, {"streamtype": "stdin"})]
    server.reply(1)
    reply = server.take_output()
    assert reply[:12] == struct.pack(">HHII", 0x8003, 2, len(reply) - 8, 1)
    assert client.receive(reply) == [Replied(1)]
    client.send(1, b"hello")
    client.end(1)
    assert client.take_output() == b"\0\0\0\1\0\0\0\5hello" + b"\0\0\0\1\1\0\0\0"
    server.reset(1, spdy.CANCEL)
    assert server.take_output() == b"\x80\x03\0\3\0\0\0\x08\0\0\0\1\0\0\0\5"
    server.go_away()
    assert server.take_output() == b"\x80\x03\0\7\0\0\0\x08\0\0\0\1\0\0\0\0"
    assert client.receive(b"\x80\x03\0\7\0\0\0\x08\0\0\0\1\0\0\0\0") == [GoneAway()]


def test_a_ping_is_answered_and_an_answer_is_not() -> None:
    _, server = pair()
    ping = b"\x80\x03\0\6\0\0\0\4\0\0\0\1"
    assert server.receive(ping) == []
    assert server.take_output() == ping
    server.receive(b"\x80\x03\0\6\0\0\0\4\0\0\0\2")
    assert server.take_output() == b""


def test_windows_and_settings_are_passed_over() -> None:
    _, server = pair()
    window = b"\x80\x03\0\x09\0\0\0\x08\0\0\0\1\0\1\0\0"
    settings = b"\x80\x03\0\4\0\0\0\4\0\0\0\0"
    assert server.receive(window + settings) == []
    assert server.take_output() == b""


def test_half_closed_both_ways() -> None:
    client, server = pair()
    stream = client.open({})
    client.end(stream)
    client.send(stream, b"too late")
    client.end(stream)
    assert server.receive(client.take_output()) == [Opened(1, {}), Ended(1)]
    server.send(stream, b"still speaking")
    server.end(stream)
    assert client.receive(server.take_output()) == [Data(1, b"still speaking"), Ended(1)]
    server.send(stream, b"nobody listens")
    assert server.take_output() == b""


def test_a_reset_stream_is_silent() -> None:
    client, server = pair()
    stream = client.open({})
    server.receive(client.take_output())
    client.send(stream, b"before")
    client.reset(stream)
    assert server.receive(client.take_output()) == [Data(1, b"before"), Reset(1, spdy.CANCEL)]
    server.send(stream, b"after")
    assert server.take_output() == b""
    client.receive(b"\0\0\0\1\0\0\0\5after")  # what was on its way
    assert client.take_output() == b""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02\0\6\0\0\0\4\0\0\0\1", "version 2"),
        (b"\x80\x03\0\1\x00\x10\0\0", "too large"),
        (b"\x80\x03\0\1\0\0\0\x02\0\0", "broken"),
        (b"\x80\x03\0\1\0\0\0\x10\0\0\0\1\0\0\0\0\0\0garbag", "broken"),
        (b"\x80\x03\0\3\0\0\0\4\0\0\0\1", "broken"),
        (b"GET / HTTP/1.1\r\n", ""),
    ],
)
def test_what_is_no_spdy(data: bytes, message: str) -> None:
    _, server = pair()
    if message:
        with pytest.raises(SpdyError, match=message):
            server.receive(data)
    else:
        assert server.receive(data) == []  # reads as data of a stream that nobody opened


def test_stream_numbers_go_up_and_belong_to_the_peer() -> None:
    client, server = pair()
    client.open({})
    client.open({})
    server.receive(client.take_output())
    impostor = Connection(server=True)
    impostor.open({})
    with pytest.raises(SpdyError, match="opened stream 2"):
        Connection(server=True).receive(impostor.take_output())
    late = Connection(server=False)
    late.open({})
    with pytest.raises(SpdyError):  # stream 1 again, its block from another compressor
        server.receive(late.take_output())


def test_a_bomb_of_headers_is_refused() -> None:
    client, server = pair()
    client.open({"a": "x" * 1_000_000})
    with pytest.raises(SpdyError, match="too large"):
        server.receive(client.take_output())


def test_too_many_streams_are_refused_one_by_one() -> None:
    client, server = pair()
    for _ in range(spdy.STREAMS_MAX + 1):
        client.open({})
    assert len(server.receive(client.take_output())) == spdy.STREAMS_MAX
    assert client.receive(server.take_output()) == [Reset(2 * spdy.STREAMS_MAX + 1, spdy.REFUSED_STREAM)]


headers = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_categories=["Lu", "Lt"]), max_size=20).filter(
        lambda name: name == name.lower()
    ),
    st.text(st.characters(codec="utf-8"), max_size=50),
    max_size=5,
)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("open"), headers),
        st.tuples(st.just("send"), st.integers(0, 5), st.binary(max_size=100_000)),
        st.tuples(st.just("end"), st.integers(0, 5)),
        st.tuples(st.just("reset"), st.integers(0, 5)),
        st.tuples(
            st.just("ping"),
        ),
    ),
    max_size=30,
)


@given(actions, st.data())
def test_whatever_is_sent_arrives_however_it_is_cut(todo: list[tuple[object, ...]], data: st.DataObject) -> None:
    client, whole = pair()
    expected: list[spdy.Event] = []
    streams: list[int] = []
    live: set[int] = set()
    for action in todo:
        if action[0] == "open":
            assert isinstance(action[1], dict)
            streams.append(client.open(action[1]))
            live.add(streams[-1])
            expected.append(Opened(streams[-1], action[1]))
        elif action[0] == "ping":
            client._control(spdy.PING, 0, struct.pack(">I", 1))
        elif streams:
            assert isinstance(action[1], int)
            stream = streams[action[1] % len(streams)]
            if action[0] == "send":
                assert isinstance(action[2], bytes)
                client.send(stream, action[2])
                if stream in live and action[2]:
                    expected.append(Data(stream, action[2]))
            elif action[0] == "end":
                client.end(stream)
                if stream in live:
                    expected.append(Ended(stream))
                live.discard(stream)
            else:
                half_open = stream in client._streams
                client.reset(stream)
                if half_open:
                    expected.append(Reset(stream, spdy.CANCEL))
                live.discard(stream)
    sent = client.take_output()
    assert joined(whole.receive(sent)) == joined(expected)
    pieces = Connection(server=True)
    events: list[spdy.Event] = []
    while sent:
        size = data.draw(st.integers(1, max(1, len(sent) // 3)))
        events += pieces.receive(sent[:size])
        sent = sent[size:]
    assert joined(events) == joined(expected)
    assert pieces.take_output() == whole.take_output()


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_passed_over(garbage: bytes) -> None:
    _, server = pair()
    try:
        server.receive(garbage)
        server.receive(b"\x80\x03\0\1" + garbage)
    except SpdyError:
        pass
