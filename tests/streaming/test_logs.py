"""kubectl logs with all its flags, on both runtimes."""

import re
import time
from collections.abc import Iterator

import pytest

from tests.kit.controlplane import until
from tests.streaming.conftest import Cluster

pytestmark = pytest.mark.integration

SCRIPT = """
echo first; echo error >&2; sleep 1.2; echo second; sleep 0.1; printf 'no end'; sleep 1000
"""


@pytest.fixture(scope="module")
def talker(runtime: Cluster) -> Iterator[Cluster]:
    runtime.pod("talker", SCRIPT)
    # What is written to two streams at once may be logged in either order.
    until("the first words", lambda: {"first", "error"} <= set(runtime("logs", "talker").splitlines()))
    until("the second line", lambda: "second\n" in runtime("logs", "talker"))
    yield runtime


def test_all_and_tail(talker: Cluster) -> None:
    assert sorted(talker("logs", "talker").splitlines()[:3]) == ["error", "first", "second"]
    assert talker("logs", "talker", "--tail=1").startswith("second")
    assert talker("logs", "talker", "--tail=0") == ""
    assert talker("logs", "talker", "--limit-bytes=5") in ("first", "error")


def test_timestamps_and_since(talker: Cluster) -> None:
    lines = talker("logs", "talker", "--timestamps").splitlines()
    stamps = {line.split()[1]: line.split()[0] for line in lines if " " in line}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z|.*[+-]\d\d:\d\d", stamps["first"])
    assert "first" not in talker("logs", "talker", f"--since-time={stamps['second']}")
    assert "second" in talker("logs", "talker", f"--since-time={stamps['second']}")
    assert "first" in talker("logs", "talker", "--since=1h")
    done = talker.run("logs", "talker", "--since-time=yesterday")
    assert done.returncode != 0


def test_follow_until_the_end(runtime: Cluster) -> None:
    name = f"follow-{time.monotonic_ns()}"
    runtime.pod(name, "for n in 1 2 3 4; do echo line $n; sleep 0.4; done; echo over")
    text = runtime("logs", "-f", name)
    assert [line for line in text.splitlines() if line == "over" or line.startswith("line")][:5] == [
        "line 1",
        "line 2",
        "line 3",
        "line 4",
        "over",
    ]
    until("a restart", lambda: int(runtime("get", "pod", name, "-o=jsonpath={..restartCount}")) >= 1)
    until("a log of before", lambda: "over" in runtime.run("logs", "--previous", name).stdout.decode())
    runtime("delete", "pod", name, "--wait=false")


def test_followed_through_rotations(runtime: Cluster) -> None:
    name = f"rotate-{time.monotonic_ns()}"
    go = f"/tmp/{name}"
    print_line = "n=$((n+1)); printf '%0300d\\n' $n; [ $((n % 100)) = 0 ] && sleep 0.2"
    waits = f"mkdir -p /tmp; echo 0; until test -e {go}; do sleep 0.1; done; rm {go}"
    runtime.pod(name, f"{waits}; n=0; while [ $n -lt 3000 ]; do {print_line}; done; sleep 1000")
    follower = runtime.start("logs", "-f", name)
    assert follower.stdout is not None
    assert int(follower.stdout.readline()) == 0  # it follows, before anything is rotated
    runtime("exec", name, "--", "touch", go)
    numbers = [int(follower.stdout.readline()) for _ in range(3000)]
    follower.kill()
    follower.communicate()
    assert numbers == list(range(1, 3001))
    rest = runtime("logs", name).splitlines()
    assert len(rest) < 3000, "the log was not rotated"
    runtime("delete", "pod", name, "--wait=false")


def test_several_containers_and_selectors(runtime: Cluster) -> None:
    name = f"both-{time.monotonic_ns()}"
    runtime.pod(name, "echo from main; sleep 1000")
    for index in (1, 2):
        pod = f"{name}-{index}"
        runtime.pod(pod, f"echo number {index}; sleep 1000")
        runtime("label", "pod", pod, f"group={name}", "--overwrite")
    text = runtime("logs", "-l", f"group={name}", "--prefix", "--all-containers")
    assert sorted(text.splitlines()) == [f"[pod/{name}-{index}/main] number {index}" for index in (1, 2)]
    done = runtime.run("logs", name, "-c", "nothing")
    assert b"container nothing is not valid for pod" in done.stderr
    done = runtime.run("logs", name, "--previous")
    assert b'previous terminated container "main" in pod' in done.stderr
    runtime("delete", "pod", name, f"{name}-1", f"{name}-2", "--wait=false")


def test_long_lines_come_whole(runtime: Cluster) -> None:
    name = f"long-{time.monotonic_ns()}"
    runtime.pod(name, "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after; sleep 1000")
    until("the line after", lambda: "after" in runtime("logs", name))
    assert runtime("logs", name) == "x" * 100_000 + "\nafter\n"
    (line, after) = runtime("logs", name, "--timestamps").splitlines()
    assert line.split(" ")[1] == "x" * 100_000
    assert after.endswith(" after")
    assert runtime("logs", name, "--tail=2") == "x" * 100_000 + "\nafter\n"
    runtime("delete", "pod", name, "--wait=false")


def test_debug_with_an_ephemeral_container(runtime: Cluster) -> None:
    arguments = ("debug", "web", "--image=docker.io/library/busybox:1.36", "-i", "--quiet")
    name = f"look-{time.monotonic_ns()}"
    debugger = runtime.start(*arguments, f"--container={name}", "--", "sh", "-c", "read w; echo saw $w; sleep 1")
    assert debugger.stdin is not None
    assert debugger.stdout is not None
    debugger.stdin.write(b"it\n")
    debugger.stdin.flush()
    assert debugger.stdout.readline() == b"saw it\n"
    debugger.communicate(timeout=30)
    until("its log", lambda: runtime.run("logs", "web", "-c", name).stdout == b"saw it\n")
