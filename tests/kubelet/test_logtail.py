"""The end of a log as a termination message, and the times of its lines."""

import os
from pathlib import Path

from raykube.kubelet.containers import LOG_TAIL_BYTES, LOG_TAIL_LINES, log_tail
from raykube.kubelet.core.podlog import fixed


def line(text: str) -> bytes:
    return f"2026-01-01T00:00:00.000000000Z stdout F {text}\n".encode()


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.touch()
    os.truncate(log, 1 << 40)  # more than any memory; it takes no disk
    with log.open("ab") as file:
        file.write(b"\n" + b"".join(line(f"{number:010}") for number in range(1000)))
    found = log_tail(log).splitlines()
    assert found == [f"{number:010}" for number in range(1000 - LOG_TAIL_LINES, 1000)]


def test_a_short_log_and_none(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    assert log_tail(log) == ""
    log.write_bytes(line("one") + line("two"))
    assert log_tail(log) == "one\ntwo"
    log.write_bytes(line("x" * 3000))
    assert log_tail(log) == "x" * LOG_TAIL_BYTES


def test_times_have_nine_digits_whatever_the_runtime_leaves_out() -> None:
    assert fixed(b"2026-11-28T22:00:00.12345Z") == b"2026-11-28T22:00:00.123450000Z"
    assert fixed(b"2026-11-28T22:00:00+01:00") == b"2026-11-28T22:00:00.000000000+01:00"
    assert fixed(b"2026-11-28T22:00:00.123456789Z") == b"2026-11-28T22:00:00.123456789Z"
    assert fixed(b"yesterday") == b"yesterday"
