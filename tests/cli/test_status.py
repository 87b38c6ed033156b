"""`raykube status` is readable when a machine is lost: on a terminal, however narrow, and in a pipe."""

import os
import pty
import re
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from dataclasses import replace
from io import StringIO

import pytest

from raykube.cli.cluster import _print_status
from raykube.cluster.health import ClusterStatus, ComponentStatus

LONG = "no answer: " + "a reason that fills several lines of any terminal " * 3 + "0123456789abcdef" * 8
ROWS = [
    ComponentStatus("controller-manager", "worker-one.example.test", "10.77.0.11:10257", 123456, "leader", True, "ok"),
    ComponentStatus("apiserver", "worker-two.example.test", "10.77.0.13:6444", 234567, "", False, LONG),
]
LOST = ClusterStatus("raykube", "https://10.77.0.11:6443", ROWS, 3, 3, 2, "")


def piped() -> str:
    with redirect_stdout(StringIO()) as output:
        _print_status(LOST)
    return output.getvalue()


def on_a_terminal() -> str:
    here, there = pty.openpty()
    with os.fdopen(there, "w") as terminal, redirect_stdout(terminal):
        _print_status(LOST)
    text = b""
    with suppress(OSError):  # its end, when all is read
        while part := os.read(here, 1 << 16):
            text += part
    os.close(here)
    return re.sub(r"\x1b\[[0-9;]*m", "", text.decode())


@pytest.mark.parametrize("shown", [piped, on_a_terminal])
@pytest.mark.parametrize("columns", ["80", "140", ""])
def test_a_long_detail_cuts_no_other_column(
    shown: Callable[[], str], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    lines = shown().splitlines()
    first, second = (next(line.split() for line in lines if line.startswith(row.component)) for row in ROWS)
    assert first == [
        "controller-manager",
        "worker-one.example.test",
        "10.77.0.11:10257",
        "123456",
        "leader",
        "healthy",
        "ok",
    ]
    assert second[:6] == ["apiserver", "worker-two.example.test", "10.77.0.13:6444", "234567", "-", "unhealthy"]
    words = "".join("".join(lines).split())
    assert "…" not in words
    if shown is piped:
        assert any(line.rstrip().endswith(LONG) for line in lines)


@pytest.mark.parametrize(
    ("wanted", "members", "healthy", "said"),
    [
        (3, 3, 2, "The store tolerates 0 more failures (2 of 3 store members healthy)"),
        (3, 2, 2, "The store tolerates 0 more failures (2 of 2 store members healthy, 3 are asked for)"),
        (3, 2, 1, "The store has no quorum (1 of 2 store members healthy, 3 are asked for): writes fail"),
        (1, 2, 2, "The store tolerates 0 more failures (2 of 2 store members healthy, 1 is asked for)"),
    ],
)
def test_the_store_s_members_are_those_that_there_are_and_those_that_are_asked_for(
    wanted: int, members: int, healthy: int, said: str
) -> None:
    with redirect_stdout(StringIO()) as output:
        _print_status(replace(LOST, store_wanted=wanted, store_members=members, store_healthy=healthy))
    assert said in output.getvalue()


def test_a_cluster_that_is_down_is_one_line() -> None:
    with redirect_stdout(StringIO()) as output:
        _print_status(replace(LOST, stopped=True))
    assert output.getvalue() == "Cluster raykube is stopped: 'raykube up' starts it\n"
