"""`raykube kv` starts with what starts an etcd: flags, environment variables, configuration file."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from raykube.cli.main import root
from raykube.kv.config import Config
from tests.kit.etcd import etcd_program


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the component would be started with."""
    found: list[Any] = []

    class Service:
        def __init__(self, config: Config) -> None:
            found.append(config)
            raise ValueError("is not started here")

    monkeypatch.setattr("raykube.kv.service.Service", Service)
    return found


def run(*arguments: str) -> None:
    with pytest.raises(click.ClickException, match="is not started here"):
        root.main(["kv", *arguments], standalone_mode=False)


def refused(*arguments: str) -> str:
    with pytest.raises(click.ClickException) as caught:
        root.main(["kv", *arguments], standalone_mode=False)
    assert "is not started here" not in caught.value.message
    return caught.value.message


def defaults_of_etcd() -> list[str]:
    """`--flag=default` for all flags of the real one's help."""
    shown = subprocess.run([etcd_program(), "--help"], capture_output=True, text=True, check=True)
    listed = re.findall(r"^  --([a-z0-9-]+)(?: '?([^'\n]*)'?)?$", shown.stdout + shown.stderr, re.MULTILINE)
    return [f"--{name}={value}" for name, value in listed if name not in ("version", "help", "config-file")]


@pytest.mark.integration
def test_every_flag_of_etcd_is_known_and_takes_its_default(started: list[Any], tmp_path: Path) -> None:
    flags = [flag for flag in defaults_of_etcd() if not flag.startswith(("--data-dir", "--backend-batch-interval"))]
    assert len(flags) > 80
    run(*flags, f"--data-dir={tmp_path}")
    assert started[0].name == "default"
    assert started[0].snapshot_count == 100_000


def test_flags_of_another_minor_version(started: list[Any]) -> None:
    """Those of kubeadm's manifests for etcd 3.6, and the names of 3.5's experiments there."""
    run("--feature-gates=InitialCorruptCheck=true", "--watch-progress-notify-interval=5s", "--corrupt-check-time=4h")
    assert started[0].watch_progress_notify_interval == 5.0


def test_environment(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_NAME", "m1")
    monkeypatch.setenv("ETCD_INITIAL_CLUSTER", "m1=http://10.0.0.1:2380,m2=http://10.0.0.2:2380")
    monkeypatch.setenv("ETCD_PRE_VOTE", "false")
    monkeypatch.setenv("ETCD_SNAPSHOT_COUNT", "")
    monkeypatch.setenv("ETCD_EXPERIMENTAL_WATCH_PROGRESS_NOTIFY_INTERVAL", "7s")
    monkeypatch.setenv("ETCD_HEARTBEAT_INTERVAL", "20")
    run("--heartbeat-interval=30")
    (config,) = started
    assert config.name == "m1"
    assert config.initial_cluster == ["m1=http://10.0.0.1:2380", "m2=http://10.0.0.2:2380"]
    assert (config.pre_vote, config.snapshot_count, config.watch_progress_notify_interval) == (False, 10_000, 7.0)
    assert config.heartbeat_interval == 30
    monkeypatch.setenv("ETCD_UNSAFE_NO_FSYNC", "true")
    assert "acknowledged writes would be lost" in refused()


FILE = """
name: m1
data-dir: /var/lib/m1
wal-dir:
snapshot-count: 5000
listen-client-urls: http://10.0.0.1:2379,http://127.0.0.1:2379
initial-cluster: m1=http://10.0.0.1:2380
initial-advertise-peer-urls: http://10.0.0.1:2380
max-wals: 5
cors:
strict-reconfig-check: false
enable-pprof: false
proxy: 'off'
client-transport-security:
  cert-file:
  client-cert-auth: false
  auto-tls: false
peer-transport-security:
  cert-file: /p.crt
  key-file: /p.key
  trusted-ca-file: /p.ca
  client-cert-auth: true
  allowed-cn: member
listen-peer-urls: https://10.0.0.1:2380
log-outputs: [stderr]
auto-compaction-retention: "1"
"""


def test_the_file_and_nothing_beside_it(started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ETCD_HEARTBEAT_INTERVAL", "20")
    (tmp_path / "etcd.yml").write_text(FILE)
    run(f"--config-file={tmp_path / 'etcd.yml'}", "--name=other")
    monkeypatch.setenv("ETCD_CONFIG_FILE", str(tmp_path / "etcd.yml"))
    run()
    config, same = started
    assert config == same
    assert config == Config(
        name="m1",
        data_dir=Path("/var/lib/m1"),
        snapshot_count=5000,
        listen_client_urls=["http://10.0.0.1:2379", "http://127.0.0.1:2379"],
        listen_peer_urls=["https://10.0.0.1:2380"],
        initial_cluster=["m1=http://10.0.0.1:2380"],
        initial_advertise_peer_urls=["http://10.0.0.1:2380"],
        strict_reconfig_check=False,
        client_cert_auth=False,
        peer_cert_file=Path("/p.crt"),
        peer_key_file=Path("/p.key"),
        peer_trusted_ca_file=Path("/p.ca"),
        peer_client_cert_auth=True,
        peer_cert_allowed_cn=["member"],
        log_outputs=["stderr"],
        auto_compaction_retention="1",
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: [", "while parsing"),
        ("- a", "holds no keys and values"),
        ("nope: 1", "No such option"),
        ("name: {a: b}", "name holds keys and values"),
        ("peer-transport-security: 7", "holds no keys and values"),
        ("peer-transport-security: {auto-tls: true}", "--peer-auto-tls=true is not supported"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "etcd.yml").write_text(text)
    assert reason in refused(f"--config-file={tmp_path / 'etcd.yml'}")


def test_no_file(tmp_path: Path) -> None:
    assert "cannot read" in refused(f"--config-file={tmp_path / 'none'}")


def test_what_changes_nothing_is_said_where_log_lines_go(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-m", "raykube", "kv", "--max-wals=5", f"--log-outputs=stdout,{log}", f"--data-dir={log}/x"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    for shown in (done.stdout, log.read_text()):
        assert "change nothing: --max-wals" in shown
