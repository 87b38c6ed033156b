"""Channels, pairs, sizes, outcomes and heads: the small protocols of streaming."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.streaming.core import channels, http1, outcome, resize
from raykube.streaming.core.channels import V4, V4_BASE64, V5, Channel, ChannelError, Closed, Message
from raykube.streaming.core.pairs import Pair, PairError, Pairs
from raykube.streaming.core.resize import Resizes, Size


class TestChannels:
    def test_messages(self) -> None:
        assert channels.encode(V5, Channel.STDOUT, b"hello") == b"\1hello"
        assert channels.encode(V4_BASE64, Channel.STDERR, b"hello") == b"2aGVsbG8="
        assert channels.decode(V4, b"\0typed") == Message(0, b"typed")
        assert channels.decode(V5, b"\xff\0") == Closed(0)
        assert channels.decode(V4, b"\xff\0") == Message(255, b"\0")  # v4 knows no end
        assert channels.encode_close(0) == b"\xff\0"

    @given(st.sampled_from([V4, V5, V4_BASE64]), st.integers(0, 4), st.binary())
    def test_there_and_back(self, protocol: str, channel: int, data: bytes) -> None:
        assert channels.decode(protocol, channels.encode(protocol, channel, data)) == Message(channel, data)

    @pytest.mark.parametrize(("protocol", "message"), [(V4, b""), (V5, b"\xff"), (V4_BASE64, b"x"), (V4_BASE64, b"1?")])
    def test_broken(self, protocol: str, message: bytes) -> None:
        with pytest.raises(ChannelError):
            channels.decode(protocol, message)

    def test_negotiation_takes_the_clients_first(self) -> None:
        assert channels.negotiate([V5, V4], channels.REMOTE_COMMAND) == V5
        assert channels.negotiate(["v9", V4], channels.REMOTE_COMMAND) == V4
        assert channels.negotiate(["v9"], channels.REMOTE_COMMAND) == ""

    def test_streams_of_a_session(self) -> None:
        assert channels.streams(True, True, True, False) == (
            Channel.ERROR,
            Channel.STDIN,
            Channel.STDOUT,
            Channel.STDERR,
        )
        assert channels.streams(False, True, True, True) == (Channel.ERROR, Channel.STDOUT, Channel.RESIZE)

    def test_ports(self) -> None:
        assert channels.ports(["80,443", "8080"]) == [80, 443, 8080]
        assert channels.port_message(8080) == b"\x90\x1f"
        for texts in ([], [""], ["0"], ["65536"], ["http"], ["²"], ["-1"], ["80"] * 101):
            with pytest.raises(ChannelError):
                channels.ports(texts)


class TestPairs:
    def test_two_streams_with_one_request(self) -> None:
        pairs = Pairs()
        assert pairs.on_opened(1, {"streamtype": "error", "port": "80", "requestid": "0"}) is None
        assert pairs.on_opened(3, {"streamtype": "error", "port": "81", "requestid": "1"}) is None
        assert pairs.on_opened(5, {"streamtype": "data", "port": "80", "requestid": "0"}) == Pair(80, 1, 5)
        assert pairs.on_opened(7, {"streamtype": "data", "port": "81", "requestid": "1"}) == Pair(81, 3, 7)
        assert pairs.waiting == 0

    def test_clients_of_old_without_requests(self) -> None:
        pairs = Pairs()
        assert pairs.on_opened(1, {"streamtype": "error", "port": "80"}) is None
        assert pairs.on_opened(3, {"streamtype": "data", "port": "80"}) == Pair(80, 1, 3)

    def test_half_a_pair_is_forgotten(self) -> None:
        pairs = Pairs()
        pairs.on_opened(1, {"streamtype": "error", "port": "80", "requestid": "0"})
        pairs.forget(1)
        assert pairs.on_opened(3, {"streamtype": "error", "port": "80", "requestid": "0"}) is None

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"streamtype": "error"},
            {"streamtype": "stdin", "port": "80"},
            {"streamtype": "data", "port": "0"},
            {"streamtype": "data", "port": "80", "requestid": "taken"},
            {"streamtype": "error", "port": "81", "requestid": "taken"},
        ],
    )
    def test_refused(self, headers: dict[str, str]) -> None:
        pairs = Pairs()
        pairs.on_opened(1, {"streamtype": "data", "port": "80", "requestid": "taken"})
        with pytest.raises(PairError):
            pairs.on_opened(3, headers)


class TestSizes:
    def test_with_lines_and_without(self) -> None:
        sizes = Resizes()
        assert sizes.feed(b'{"Width":80,"Height":24}\n{"Height":5,"Wid') == [Size(80, 24)]
        assert sizes.feed(b'th":7}') == [Size(7, 5)]

    @given(st.lists(st.tuples(st.integers(1, 65535), st.integers(1, 65535))), st.integers(1, 9))
    def test_in_pieces(self, wanted: list[tuple[int, int]], piece: int) -> None:
        data = b"".join(resize.encode(*size) for size in wanted)
        sizes = Resizes()
        found = [size for start in range(0, len(data), piece) for size in sizes.feed(data[start : start + piece])]
        assert found == [Size(*size) for size in wanted]

    @given(st.lists(st.binary(max_size=50)))
    def test_nonsense_is_skipped(self, pieces: list[bytes]) -> None:
        sizes = Resizes()
        for piece in pieces:
            sizes.feed(piece)
        sizes.feed(b'{"Width":-1,"Height":true}{"Width":99999,"Height":1}[{}')
        sizes.feed(b"{" * 5000)
        assert sizes.feed(b'{"Width":1,"Height":2}')[-1:] in ([Size(1, 2)], [])


class TestOutcome:
    def test_exit_codes(self) -> None:
        assert outcome.exit_code(orjson.loads(outcome.exited(0))) == 0
        assert outcome.exit_code(orjson.loads(outcome.exited(137))) == 137
        assert outcome.exit_code(orjson.loads(outcome.failed("no such container"))) is None
        assert outcome.exit_code({}) is None


class TestHeads:
    def test_request(self) -> None:
        head = http1.request_head("POST", "/exec/t?x=1", "127.0.0.1:80", http1.spdy_headers(V4))
        assert head == (
            b"POST /exec/t?x=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
            b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
        )

    def test_response(self) -> None:
        data = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nX-A:  b \r\n\r\n"
        head = http1.parse_response_head(data)
        assert (head.status, head.reason, head.get("x-a"), head.get("none")) == (101, "Switching Protocols", "b", "")
        assert http1.parse_response_head(http1.response_head(head)) == head

    @pytest.mark.parametrize("data", [b"", b"SSH-2.0", b"HTTP/1.1 2x", b"HTTP/1.1 200 OK\r\nx"])
    def test_no_response(self, data: bytes) -> None:
        with pytest.raises(http1.HeadError):
            http1.parse_response_head(data + b"\r\n\r\n")

    def test_only_an_upgrades_own_headers_go_on(self) -> None:
        given_headers = [("Authorization", "Bearer secret"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "k")]
        assert http1.upgrade_headers(given_headers) == [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "k")]
