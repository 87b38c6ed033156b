"""The words of failures to reach a server."""

import errno
import socket
import ssl

import pytest

from raykube.streaming.failures import dial_failure


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed"), "connect: connection refused"),
        (OSError(errno.EHOSTUNREACH, "Connect call failed"), "connect: no route to host"),
        (OSError(errno.ENETUNREACH, "Connect call failed"), "connect: network is unreachable"),
        (TimeoutError(errno.ETIMEDOUT, "Connect call failed"), "connect: connection timed out"),
        (TimeoutError(), "i/o timeout"),
    ],
)
def test_names_the_address(error: OSError, words: str) -> None:
    assert dial_failure("https://10.77.0.12:10250/exec/a/b?c=d", error) == f"dial tcp 10.77.0.12:10250: {words}"
    assert dial_failure("https://[fd00::1]/exec", error) == f"dial tcp [fd00::1]:443: {words}"


def test_others() -> None:
    assert dial_failure("http://n1:80", socket.gaierror(-2, "unknown")) == "dial tcp: lookup n1: no such host"
    assert "bad certificate" in dial_failure("https://n1", ssl.SSLError(1, "bad certificate"))
