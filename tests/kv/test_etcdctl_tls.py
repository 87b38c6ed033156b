"""`raykube kv` started with the flags that a Kubernetes manifest starts etcd with, and etcdctl over TLS."""

import asyncio
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from raykube.kv.config import Config
from tests.kit import pki
from tests.kit.etcd import etcd_program
from tests.kit.ports import free_ports
from tests.kit.require import require_program

pytestmark = pytest.mark.integration
TIMEOUT_S = 20


@asynccontextmanager
async def program(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *command, env={"ETCDCTL_API": "3"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run(*command: str) -> tuple[int, str]:
    async with program(*command) as process, asyncio.timeout(TIMEOUT_S):
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()


class Secured:
    """A member as a process, and etcdctl with certificates."""

    def __init__(self, folder: Path) -> None:
        client, peer, metrics = free_ports(3)
        self.endpoint = f"https://127.0.0.1:{client}"
        self.metrics = f"http://127.0.0.1:{metrics}"
        server = pki.tls("etcd-server", server=True)
        self.flags = [
            f"--advertise-client-urls={self.endpoint}",
            f"--cert-file={server.cert_file}",
            "--client-cert-auth=true",
            f"--data-dir={folder / 'etcd'}",
            "--experimental-initial-corrupt-check=true",
            "--experimental-watch-progress-notify-interval=5s",
            f"--initial-advertise-peer-urls=https://127.0.0.1:{peer}",
            f"--initial-cluster=node-1=https://127.0.0.1:{peer}",
            f"--key-file={server.key_file}",
            f"--listen-client-urls={self.endpoint}",
            f"--listen-metrics-urls={self.metrics}",
            f"--listen-peer-urls=https://127.0.0.1:{peer}",
            "--name=node-1",
            f"--peer-cert-file={server.cert_file}",
            "--peer-client-cert-auth=true",
            f"--peer-key-file={server.key_file}",
            f"--peer-trusted-ca-file={server.ca_file}",
            "--snapshot-count=10000",
            f"--trusted-ca-file={server.ca_file}",
        ]

    async def serves(self, process: asyncio.subprocess.Process) -> None:
        """Returns once the member is healthy."""
        async with asyncio.timeout(TIMEOUT_S), aiohttp.ClientSession() as session:
            while not await _is_healthy(session, self.metrics):
                assert process.returncode is None
                await asyncio.sleep(0.05)

    async def etcdctl(self, path: str, *arguments: str, stranger: bool = False) -> tuple[int, str]:
        files = pki.tls("client", stranger=stranger)
        return await run(
            path, f"--endpoints={self.endpoint}", f"--cacert={files.ca_file}", f"--cert={files.cert_file}",
            f"--key={files.key_file}", "--command-timeout=3s", "--dial-timeout=2s", *arguments,
        )  # fmt: skip


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    secured = Secured(tmp_path)
    async with program(sys.executable, "-m", "raykube", "kv", *secured.flags) as process:
        await secured.serves(process)
        yield secured


async def _is_healthy(session: aiohttp.ClientSession, metrics: str) -> bool:
    try:
        async with session.get(f"{metrics}/health?exclude=NOSPACE&serializable=true") as answer:
            return answer.status == 200 and await answer.text() == '{"health":"true","reason":""}'
    except aiohttp.ClientError:
        return False


@pytest.mark.parametrize("origin", ["debian", "distro"])
async def test_etcdctl_with_certificates(secured: Secured, origin: str) -> None:
    path = require_program("etcdctl") if origin == "debian" else etcd_program("etcdctl")
    assert await secured.etcdctl(path, "put", "a", "1") == (0, "OK\n")
    assert await secured.etcdctl(path, "get", "a") == (0, "a\n1\n")
    assert await secured.etcdctl(path, "lock", "name", "/bin/echo", "held") == (0, "held\n")
    status, output = await secured.etcdctl(path, "member", "list")
    assert (status, output.split(", ")[1:]) == (
        0, ["started", "node-1", secured.flags[6].partition("=")[2], secured.endpoint, "false\n"],
    )  # fmt: skip
    assert "is healthy" in (await secured.etcdctl(path, "endpoint", "health", "--cluster"))[1]
    # Nobody without a certificate of the CA gets an answer.
    assert (await secured.etcdctl(path, "get", "a", stranger=True))[0] != 0
    assert (await run(path, f"--endpoints={secured.endpoint}", "--insecure-skip-tls-verify", "--command-timeout=2s",
                      "--insecure-transport=false", "get", "a"))[0] != 0  # fmt: skip
    # Users and roles are refused in a line.
    for command in (("user", "list"), ("role", "add", "x"), ("auth", "enable")):
        status, output = await secured.etcdctl(path, *command)
        assert status != 0
        assert "Unimplemented" in output


async def test_metrics(secured: Secured) -> None:
    await secured.etcdctl(etcd_program("etcdctl"), "put", "a", "1")
    async with aiohttp.ClientSession() as session, session.get(f"{secured.metrics}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    for expected in ("etcd_server_has_leader 1", "etcd_server_is_leader 1", "etcd_debugging_mvcc_current_revision 2",
                     "etcd_debugging_mvcc_keys_total 1", "etcd_server_leader_changes_seen_total 1",
                     "etcd_server_proposals_pending 0", "etcd_server_proposals_failed_total 0"):  # fmt: skip
        assert expected in lines
    numbers = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert int(numbers["etcd_disk_wal_fsync_duration_seconds_count"]) >= 2
    assert float(numbers["process_resident_memory_bytes"]) > 1 << 20


async def test_a_plain_client_is_told_nothing(secured: Secured) -> None:
    """TLS is not left out by asking without it, nor by asking without a certificate."""
    context = ssl.create_default_context(cafile=str(pki.folder() / "ca.crt"))
    context.set_alpn_protocols(["h2"])
    host, _, port = secured.endpoint.removeprefix("https://").partition(":")
    for tls in (None, context):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=tls)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        async with asyncio.timeout(TIMEOUT_S):
            try:
                received = await reader.read()
            except (OSError, ssl.SSLError):
                received = b""
        writer.close()
        assert b"grpc" not in received


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("--force-new-cluster", "begin a new cluster with a backup"),
        ("--unsafe-no-fsync=true", "acknowledged writes would be lost"),
        ("--discovery=https://discovery.etcd.io/x", "name the members with --initial-cluster"),
        ("--client-crl-file=/x", "not supported"),
        ("--nope", "No such option"),
        ("--initial-cluster=other=http://127.0.0.1:1", "does not name this member"),
        ("--election-timeout=100", "at least 5 times"),
        ("--listen-metrics-urls=https://127.0.0.1:0", "https needs --cert-file"),
        ("--listen-metrics-urls=127.0.0.1:0", "is not of the form"),
        ("--heartbeat-interval=x", "valid integer"),
        ("--log-level=loud", "'debug', 'info'"),
        ("--initial-cluster-state=old", "'new' or 'existing'"),
    ],
)
async def test_flags_that_are_refused_say_why_in_a_line(tmp_path: Path, flag: str, reason: str) -> None:
    status, output = await run(sys.executable, "-m", "raykube", "kv", f"--data-dir={tmp_path / 'd'}", flag)
    assert status == 2
    assert reason in output.splitlines()[0]
    assert len(output.splitlines()) == 2, output  # the other names the help


@pytest.mark.parametrize(("level", "is_told"), [("info", True), ("warn", False)])
async def test_log_level(tmp_path: Path, level: str, is_told: bool) -> None:
    secured = Secured(tmp_path)
    command = (sys.executable, "-m", "raykube", "kv", *secured.flags, f"--log-level={level}")
    async with program(*command) as process, asyncio.timeout(TIMEOUT_S):
        await secured.serves(process)
        process.terminate()
        output, _ = await process.communicate()
    assert process.returncode == 0
    assert (b"serving client on" in output) is is_told


def test_a_data_directory_that_is_not_named_has_the_member_s_name() -> None:
    config = Config(name="m1", initial_cluster=["m1=http://127.0.0.1:2380"])
    assert config.data_dir == Path("m1.etcd")
