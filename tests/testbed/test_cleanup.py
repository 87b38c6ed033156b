"""Nothing of a testbed stays on the machine, whatever happens to the tester."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.waiting import until
from tests.testbed import Testbed, record
from tests.testbed.bed import CHECKOUT, require_hosts
from tests.testbed.traces import Traces, traces, traces_of

pytestmark = pytest.mark.integration

TESTER = """
import sys, pathlib, signal
from tests.testbed import Testbed
with Testbed(hosts=1, folder=pathlib.Path(sys.argv[1])) as bed:
    bed.run("host1", "setsid sleep 1000 >/dev/null 2>&1 & mkdir -p /sys/fs/cgroup/pids/kubepods/pod1")
    bed.run("host1", "ip netns add pod; mount -t tmpfs tmpfs /var/lib; touch /var/lib/mine")
    print(bed.name, flush=True)
    signal.pause()
"""


@pytest.fixture
def tester(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Traces, record.Record]]:
    """Another tester, with a testbed that is in use."""
    require_hosts()
    process = subprocess.Popen(
        [sys.executable, "-c", TESTER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT
    )
    assert process.stdout is not None
    try:
        written = record.load(record.RECORDS / f"{process.stdout.readline().strip()}.json")
        yield process, traces_of(written), written
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_testbed_leaves_nothing(tmp_path: Path) -> None:
    with Testbed(hosts=1, folder=tmp_path) as bed:
        bed.run("host1", "setsid sleep 1000 >/dev/null 2>&1 & mkdir -p /sys/fs/cgroup/pids/kubepods/pod1")
        bed.run("host1", "ip netns add pod; mount -t tmpfs tmpfs /var/lib")
        made = traces(bed)
        found = made.left()
        assert any("control group" in each for each in found)
        assert any("sleep" in each for each in found), "what is looked for is not what is there"
    assert made.left() == []


def test_a_testbed_that_fails_to_boot_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bed = Testbed(hosts=2, folder=tmp_path)
    seen: list[Traces] = []

    def refuse(*_: str) -> None:
        seen.append(traces(bed))
        raise OSError("no network today")

    monkeypatch.setattr(bed, "_network", refuse)
    with pytest.raises(OSError, match="no network today"), bed:
        pass
    assert seen[0].left() == []


async def test_a_killed_tester_leaves_nothing(tester: tuple[subprocess.Popen[str], Traces, record.Record]) -> None:
    process, made, _ = tester
    assert len(made.left()) > 3
    process.send_signal(signal.SIGKILL)
    await until(lambda: made.left() == [], 20, "the keeper cleans up")


async def test_ctrl_c_leaves_nothing(tester: tuple[subprocess.Popen[str], Traces, record.Record]) -> None:
    process, made, _ = tester
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert made.left() == []


async def test_the_next_testbed_removes_what_a_killed_keeper_left(
    tester: tuple[subprocess.Popen[str], Traces, record.Record], tmp_path: Path
) -> None:
    process, made, written = tester
    assert written.keeper is not None
    os.kill(written.keeper[0], signal.SIGKILL)
    await until(lambda: not record.alive(written.keeper), what="the keeper's end")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(made.left()) > 3, "somebody else cleaned up"
    with Testbed(hosts=1, folder=tmp_path) as bed:
        assert made.left() == []
        bed.run("host1", ["true"])


def test_testbeds_run_side_by_side(tmp_path: Path) -> None:
    with Testbed(hosts=1, folder=tmp_path) as one, Testbed(hosts=1, folder=tmp_path) as other:
        one.run("host1", "echo one > /root/who")
        other.run("host1", "echo other > /root/who")
        assert one.ssh("outside", "host1", "cat who").stdout == "one\n"
        other.kill("host1")
        assert one.ssh("outside", "host1", "cat who").stdout == "one\n"


def test_a_pid_that_was_used_again_is_left_alone(tmp_path: Path) -> None:
    me = record.identity(os.getpid())
    assert me is not None
    before = (me[0], me[1] - 1)
    assert record.alive(me)
    assert not record.alive(before)
    record.end([before])
