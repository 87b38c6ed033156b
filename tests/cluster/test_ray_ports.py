"""The ports that Ray's processes of a machine get."""

import socket
from itertools import count
from typing import Any

import pytest

from raykube.cluster import ray_nodes


def test_ports_of_one_machine_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel names a port again as soon as nobody holds it."""
    held: set[int] = set()

    class Socket:
        def __init__(self) -> None:
            self._port = 0

        def __enter__(self) -> "Socket":
            return self

        def __exit__(self, *_: Any) -> None:
            held.discard(self._port)

        def bind(self, _: Any) -> None:
            self._port = next(port for port in count(40_000) if port not in held)
            held.add(self._port)

        def getsockname(self) -> tuple[str, int]:
            return "", self._port

    monkeypatch.setattr(socket, "socket", Socket)
    assert len(set(ray_nodes.free_ports("127.0.0.1", 3))) == 3
    assert not held
