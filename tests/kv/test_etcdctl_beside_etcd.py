"""etcdctl's commands, one after the other, to the real etcd and to ours: the same output and exit codes.

Both Debian's etcdctl (3.4) and the real etcd's own (3.5). What names a server or a moment is blotted out.
"""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.kit.etcd import etcd_program, real_etcd
from tests.kit.require import require_program
from tests.kv.group import running_group

pytestmark = pytest.mark.integration
TIMEOUT_S = 20

BLOTS = [
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
    (re.compile(r"\b[0-9a-f]{12,16}\b"), "ID"),
    (re.compile(r"ADDRESS, \d+"), "ADDRESS, HASH"),
    (re.compile(r'"version":"3[.0-9]+"|3\.5\.[0-9]+'), "VERSION"),
    (re.compile(r"\d+(\.\d+)? [kM]?B\b"), "SIZE"),
    (re.compile(r',?"(leader|raftIndex|raftTerm|raftAppliedIndex|dbSize|dbSizeInUse)":\d+'), ""),
    (re.compile(r"\d+, \d+, \d+, \n|\| +\d+ \| +\d+ \| +\d+ \|"), "TERM AND INDEXES"),
    (re.compile(r" {2,}"), " "),
    (re.compile(r"-{2,}"), "--"),
    (re.compile(r'ETCD_INITIAL_CLUSTER="[^"]*"'), lambda found: ",".join(sorted(found[0].split('"')[1].split(",")))),
    # A decimal number may be short enough to look like an id above.
    (re.compile(r'"(cluster_id|member_id|raft_term|hash|ID|id)":(\d+|ID)'), r'"\1":N'),
    (re.compile(r'"(ClusterID|MemberID|RaftTerm|Hash|Lease|ID|TTL)" : ([1-9]\d*|ID)'), r'"\1" : N'),
    (re.compile(r'took = [^\n]*|"took":"[^"]*"'), "TIME"),
    (re.compile(r'remaining\(\d+s\)|"ttl":\d\d+'), "TIME"),
    (re.compile(r'"(ts|caller|target)":"[^"]*"'), r'"\1":T'),
    (re.compile(r',"compact_revision":-1'), ""),  # of a store that was never compacted; ours has 0 there
    (re.compile(r'(\{"header":\{"cluster_id":N,"member_id":N),"revision":\d+(,"raft_term":N\},"members")'), r"\1\2"),
    (re.compile(r'(?s)"members":\[\{(.*)\}\]'), lambda found: str(sorted(found[1].split("},{")))),
]

# What words of a script stand for: what a command showed last.
SEEN = {
    "LEASE": re.compile(rb"^lease (\w+) granted"),
    "MEMBER": re.compile(rb"^Member +(\w+) added"),
    "OWN": re.compile(rb"(\w+), started, m1"),
}

PUTS = [("put", key, value) for key, value in (("a", "3"), ("b", "2"), ("c", "1"), ("ca", "x"), ("cb", ""))]

SCRIPTS: dict[str, list[tuple[str, ...] | str]] = {
    # A string is what the command before it reads.
    "put": [
        ("put", "a", "1"), ("put", "a"), "from\nstdin", ("get", "a"), ("put", "a", "2", "--prev-kv"),
        ("put", "a", "3", "--prev-kv", "-w", "json"), ("put", "b", "1", "--prev-kv"), ("put", "a", "--ignore-value"),
        ("put", "x", "--ignore-value"), ("put", "a", "9", "--ignore-lease"), ("put", "a", "9", "--lease=12345"),
        ("put", "", "x"), ("put", "a", "9", "-w", "fields"), ("put", "a", "9", "-w", "simple", "--hex"),
        ("put", "k", "--", "-dash"), ("get", "k"),
    ],
    "get": [
        *PUTS, ("put", "a", "4"),
        ("get", "a"), ("get", "nothing"), ("get", "", "--prefix"), ("get", "", "--from-key"), ("get", "c", "--prefix"),
        ("get", "b", "cb"), ("get", "a", "--rev=2"), ("get", "a", "--rev=99"), ("get", "", "--prefix", "--limit=2"),
        ("get", "", "--prefix", "--limit=2", "-w", "json"), ("get", "", "--prefix", "--keys-only"),
        ("get", "", "--prefix", "--count-only"), ("get", "", "--prefix", "--count-only", "-w", "fields"),
        ("get", "", "--prefix", "--print-value-only"), ("get", "a", "--consistency=s"), ("get", "a", "--consistency=l"),
        *[("get", "", "--prefix", f"--order={order}", f"--sort-by={by}", "-w", "fields")
          for order in ("ASCEND", "DESCEND") for by in ("CREATE", "KEY", "MODIFY", "VALUE", "VERSION")],
        ("get", "a", "--hex"), ("get", "a", "b", "c"), ("get",),
        ("get", "a", "--prefix", "--from-key"), ("get", "a", "-w", "table"), ("get", "c", "--from-key", "--limit=1"),
    ],
    "del": [
        *PUTS, ("del", "a"), ("del", "a"), ("del", "b", "--prev-kv"), ("del", "c", "cb"), ("del", "c", "--from-key"),
        *PUTS, ("del", "", "--prefix", "--prev-kv", "-w", "json"), ("del", "", "--prefix"),
        ("del", "x", "-w", "fields"),
    ],
    "txn": [
        *PUTS,
        ("txn",), 'value("a") = "3"\n\nput a 4\nget a\ndel b\n\nput a 9\n\n',
        ("txn",), 'value("a") = "3"\n\nput a 4\n\nget c\nget b\nget a\n\n',
        ("txn",), 'mod("a") > "1"\ncreate("a") < "99"\nversion("a") = "2"\n\nget "" --prefix\n\n\n',
        ("txn",), '\nput q "a b"\nget q\n\n\n',
        ("txn",), "\nput a 1\nput a 2\n\n\n",
        ("txn",), "\nput a 1\ndel a\n\n\n",
        ("txn",), 'version("none") = "0"\n\nput none 1\n\n\n',
        ("txn",), 'version("none") = "0"\n\nput none 2\n\nget none -w json\n\n',
        ("txn", "-w", "json"), 'mod("a") > "0"\n\nput z 1 --prev-kv\ndel "" --prefix --prev-kv\n\n\n',
        ("txn", "-w", "fields"), "\nput z 1\nget z\n\n\n",
        ("txn", "--interactive"), 'value("z") = "1"\n\nput z 2\n\n\n',
        ("txn",), "nonsense\n\n\n\n",
        ("txn",), "\nput z 1 --lease=77\n\n\n",
        ("txn",), "\nget a --rev=99\n\n\n",
    ],
    "compaction": [
        *PUTS, ("put", "a", "4"), ("compaction", "4"), ("get", "a", "--rev=3"), ("get", "a", "--rev=4"),
        ("compaction", "4"), ("compaction", "99"), ("compaction", "5", "--physical"), ("compaction", "x"),
        ("compaction", "6", "-w", "json"), ("get", "", "--prefix"),
    ],
    "lease": [
        ("lease", "grant", "1000"), ("put", "l/a", "1", "--lease=LEASE"), ("put", "l/b", "1", "--lease=LEASE"),
        ("lease", "list"), ("lease", "list", "-w", "json"), ("lease", "timetolive", "LEASE"),
        ("lease", "timetolive", "LEASE", "-w", "json"), ("lease", "timetolive", "LEASE", "-w", "fields"),
        ("lease", "keep-alive", "--once", "LEASE"), ("lease", "keep-alive", "--once", "LEASE", "-w", "json"),
        ("lease", "keep-alive", "--once", "77"), ("lease", "keep-alive", "77"),
        ("get", "l/", "--prefix", "-w", "fields"),
        ("put", "l/a", "2", "--ignore-lease"), ("get", "l/a", "-w", "fields"), ("put", "l/b", "2"),
        ("lease", "timetolive", "LEASE", "--keys"), ("lease", "timetolive", "LEASE", "--keys", "-w", "json"),
        ("lease", "revoke", "LEASE"), ("get", "l/", "--prefix"), ("lease", "revoke", "LEASE"), ("lease", "list"),
        ("lease", "timetolive", "LEASE"), ("lease", "timetolive", "LEASE", "--keys"),
        ("lease", "grant", "0"), ("lease", "grant", "x"), ("lease", "grant", "9000000001"),
    ],
    "cluster": [
        ("endpoint", "health"), ("endpoint", "health", "--cluster"), ("endpoint", "health", "-w", "json"),
        ("endpoint", "hashkv"), ("endpoint", "hashkv", "-w", "json"),
        ("endpoint", "hashkv", "--rev=99"), ("alarm", "list"), ("alarm", "disarm"), ("defrag",),
        ("defrag", "--cluster"),
        ("move-leader", "77"), ("move-leader",), ("member", "list"), ("member", "list", "-w", "table"),
    ],
    "member": [
        # Its 3.5.1 forgets that a learner is one when its address is updated, so that comes last.
        ("member", "add", "m2", "--peer-urls=http://127.0.0.1:1", "--learner"), ("member", "list"),
        ("member", "list", "-w", "json"), ("member", "promote", "MEMBER"), ("put", "a", "1"), ("get", "a"),
        ("move-leader", "MEMBER"),
        ("member", "add", "m3", "--peer-urls=http://127.0.0.1:3", "--learner"),
        ("member", "add", "m3", "--peer-urls=nonsense"), ("member", "add", "m3"), ("member", "remove", "77"),
        ("member", "remove", "MEMBER"), ("member", "remove", "MEMBER"), ("member", "promote", "MEMBER"),
        ("member", "list"), ("member", "update", "MEMBER", "--peer-urls=http://127.0.0.1:2"),
        ("member", "remove", "x"), ("put", "a", "2"), ("member", "update", "OWN", "--peer-urls=127.0.0.1:2"),
        ("member", "update", "OWN", "--peer-urls=http://127.0.0.1:2"), ("member", "list"),
    ],
    "status": [
        ("endpoint", "status", "-w", "json"), ("endpoint", "status", "--cluster"),
        ("endpoint", "status", "-w", "table"),
    ],
    "auth": [
        ("auth", "status"), ("--user=root:x", "put", "a", "1"), ("--user=root:x", "get", "a"),
    ],
    "lock": [
        ("lock", "name", "echo", "locked"), ("get", "name", "--prefix", "-w", "fields"),
        ("lock", "name", "false"), ("lock", "other", "--ttl=5", "true"),
    ],
}  # fmt: skip


def blotted(output: bytes) -> str:
    """What a program wrote, without what names a server or a moment."""
    text = output.decode()
    for blot, instead in BLOTS:
        text = blot.sub(instead, text)
    return text


class Server:
    """A server, the etcdctl that talks to it, and what it showed last."""

    def __init__(self, program: str, address: str) -> None:
        self._program = program
        self.address = address
        self._seen = dict.fromkeys(SEEN, "1")

    async def start(self, *command: str) -> asyncio.subprocess.Process:
        """Starts etcdctl with its input and output in our hands."""
        return await asyncio.create_subprocess_exec(
            self._program,
            f"--endpoints={self.address}",
            *(self._seen.get(word, word).replace("=LEASE", f"={self._seen['LEASE']}") for word in command),
            env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def run(self, *command: str, stdin: str = "") -> tuple[int, str]:
        """Exit code and blotted output."""
        process = await self.start(*command)
        async with asyncio.timeout(TIMEOUT_S):
            output, _ = await process.communicate(stdin.encode())
        for word, pattern in SEEN.items():
            if found := pattern.search(output):
                self._seen[word] = found[1].decode()
        if command == ("member", "list"):
            output = b"".join(sorted(output.splitlines(keepends=True), key=lambda line: line.partition(b",")[2]))
        return process.returncode or 0, blotted(output)

    @asynccontextmanager
    async def running(self, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """An etcdctl that goes on until it is killed at the end."""
        process = await self.start(*command)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@pytest.fixture(params=["debian", "distro"])
async def servers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Server, Server]]:
    program = require_program("etcdctl") if request.param == "debian" else etcd_program("etcdctl")
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(real_etcd(tmp_path, name="m1"))
        group = await stack.enter_async_context(
            running_group(tmp_path, 1, heartbeat_interval=100, election_timeout=1000)
        )
        yield Server(program, address), Server(program, group.endpoints[0])


@pytest.mark.parametrize("name", SCRIPTS)
async def test_same_output(servers: tuple[Server, Server], name: str) -> None:
    script = SCRIPTS[name]
    different = []
    for number, command in enumerate(script):
        if isinstance(command, str):
            continue
        following = script[number + 1] if number + 1 < len(script) else ()
        stdin = following if isinstance(following, str) else ""
        etcd, ours = await asyncio.gather(*(server.run(*command, stdin=stdin) for server in servers))
        if etcd != ours:
            different.append(f"{' '.join(command)} {stdin!r}\n  etcd: {etcd}\n  ours: {ours}")
    assert not different, "\n".join(different)


async def output_until(process: asyncio.subprocess.Process, end: str) -> str:
    """The process's blotted output, line by line until it holds `end`."""
    assert process.stdout is not None
    output = b""
    async with asyncio.timeout(TIMEOUT_S):
        while end.encode() not in output:
            line = await process.stdout.readline()
            assert line, output
            output += line
    return blotted(output)


# A watch, and how its output looks once a last put of "a" is shown.
WATCHES = {
    ("watch", "a", "--rev=2"): "end\n",
    ("watch", "", "--prefix", "--rev=1"): "end\n",
    ("watch", "a", "c", "--rev=2", "--prev-kv"): "end\n",
    ("watch", "0", "b", "--rev=3"): "end\n",
    ("watch", "a", "--rev=2", "-w", "json"): '"ZW5k"',
    ("watch", "a", "--rev=2", "-w", "fields"): '"end"',
    ("watch", "a", "--rev=2", "--", "/usr/bin/env", "sh", "-c", "echo $ETCD_WATCH_KEY $ETCD_WATCH_VALUE"): '"end"\n',
}


async def test_watch(servers: tuple[Server, Server]) -> None:
    for server in servers:
        for command in (*PUTS, ("put", "a", "4"), ("del", "b"), ("put", "b", "5"), ("del", "", "--prefix")):
            assert (await server.run(*command))[0] == 0
    for watch, end in WATCHES.items():
        shown = []
        for server in servers:
            await server.run("put", "a", "end")  # before the watch, so that all comes in one message
            async with server.running(*watch) as process:
                shown.append(await output_until(process, end))
            await server.run("del", "a")
        assert shown[1] == shown[0], watch


async def becomes(server: Server, command: tuple[str, ...], wanted: str) -> None:
    """Returns when the command's output holds `wanted`."""
    deadline = time.monotonic() + TIMEOUT_S
    while wanted not in (output := (await server.run(*command))[1]):
        assert time.monotonic() < deadline, output


async def test_interactive_watch_with_progress(servers: tuple[Server, Server]) -> None:
    shown = []
    for server in servers:
        await server.run("put", "a", "1")
        await server.run("put", "a", "2")
        async with server.running("watch", "--interactive") as process:
            assert process.stdin is not None
            process.stdin.write(b"watch a --rev=2\nwatch b\n")
            first = await output_until(process, "2\n")
            process.stdin.write(b"progress\n")
            shown.append(first + await output_until(process, "progress notify: 3\n"))
    assert shown[1] == shown[0]


async def test_lock_is_held_by_one(servers: tuple[Server, Server]) -> None:
    for server in servers:
        async with server.running("lock", "name") as first:
            assert first.stdout is not None
            async with asyncio.timeout(TIMEOUT_S):
                held = (await first.stdout.readline()).decode().strip()
            async with server.running("lock", "name", "echo", "got it") as second:
                # The second waits: its key is there, and it says nothing.
                await becomes(server, ("get", "name", "--prefix", "-w", "fields"), '"Count" : 2')
                assert (await server.run("get", held, "--keys-only"))[1].strip() == blotted(held.encode())
                first.send_signal(signal.SIGINT)
                assert await output_until(second, "got it\n") == "got it\n"


async def test_elect(servers: tuple[Server, Server]) -> None:
    shown = []
    for server in servers:
        async with (
            server.running("elect", "name", "first") as leader,
            server.running("elect", "--listen", "name") as listener,
        ):
            shown.append([await output_until(leader, "first\n"), await output_until(listener, "first\n")])
            async with server.running("elect", "name", "second") as follower:
                leader.send_signal(signal.SIGINT)
                shown[-1].append(await output_until(follower, "second\n"))
                shown[-1].append(await output_until(listener, "second\n"))
    assert shown[1] == shown[0]


async def test_keep_alive(servers: tuple[Server, Server]) -> None:
    for server in servers:
        await server.run("lease", "grant", "3")
        async with server.running("lease", "keep-alive", "LEASE") as process:
            assert await output_until(process, "\n") == "lease ID keepalived with TTL(3)\n"


async def test_mirror(servers: tuple[Server, Server]) -> None:
    """From the real one to ours and back, under another prefix."""
    etcd, ours = servers
    for source, target, prefix in ((etcd, ours, "from-etcd/"), (ours, etcd, "back/")):
        await source.run("put", "m/1", "one")
        async with source.running("make-mirror", "--prefix=m/", f"--dest-prefix={prefix}", target.address):
            await source.run("put", "m/2", "two")
            await becomes(target, ("get", prefix, "--prefix"), f"{prefix}1\none\n{prefix}2\ntwo\n")
