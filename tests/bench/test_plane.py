"""What a control plane of processes needs of its computer."""

import random
import socket
from pathlib import Path

import pytest

from raykube.bench import plane


def test_a_free_port_is_nobodys_and_no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        draws = iter([taken.getsockname()[1], 12_345, 12_346, 12_347])
        monkeypatch.setattr(random, "randrange", lambda *_: next(draws))
        assert plane.free_port() in (12_345, 12_346, 12_347)
    first_of_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert plane.PORTS[1] <= max(first_of_connections, 32_768)
