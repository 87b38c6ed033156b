"""etcd's flags that this store has no part for, and etcd's file: what starts an etcd starts a member.

Some tune parts of etcd that are not here, or are built in another way: any value is taken, and changes nothing. Others
would change what clients get, or who is let in: their defaults are taken, and other values refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_OFF = ("false", "")


@dataclass(frozen=True, slots=True)
class Foreign:
    """One flag. `values`: those that are taken, None for any; `reason`: why others are not."""

    name: str
    values: tuple[str, ...] | None = None
    reason: str = ""

    @property
    def may_stand_alone(self) -> bool:
        """Whether `--name` without a value means true."""
        return self.name in _BOOLS or (self.values is not None and "false" in self.values)


# etcd 3.5 begins the names of these with "experimental-", 3.6 does not.
_RENAMED = (
    *("bootstrap-defrag-threshold-megabytes", "compact-hash-check-enabled", "compact-hash-check-time"),
    *("compaction-batch-limit", "compaction-sleep-interval", "corrupt-check-time", "distributed-tracing-address"),
    *("distributed-tracing-instance-id", "distributed-tracing-sampling-rate", "distributed-tracing-service-name"),
    *("enable-lease-checkpoint", "enable-lease-checkpoint-persist", "stop-grpc-service-on-defrag"),
    *("memory-mlock", "peer-skip-client-san-verification", "snapshot-catchup-entries", "warning-apply-duration"),
    "warning-unary-request-duration",
)
# Tuning of parts that are built in another way, or are off: any value.
_IDLE = (
    *(prefix + name for name in _RENAMED for prefix in ("", "experimental-")),
    *("auth-token", "auth-token-ttl", "backend-batch-interval", "backend-batch-limit", "backend-bbolt-freelist-type"),
    *("bcrypt-cost", "discovery-fallback", "experimental-txn-mode-write-with-shared-buffer", "feature-gates"),
    *("grpc-keepalive-interval", "grpc-keepalive-min-time", "grpc-keepalive-timeout", "initial-election-tick-advance"),
    *("log-rotation-config-json", "max-concurrent-streams", "max-snapshots", "max-wals", "metrics"),
    *("proxy-dial-timeout", "proxy-failure-wait", "proxy-read-timeout", "proxy-refresh-interval"),
    *("proxy-write-timeout", "self-signed-cert-validity", "socket-reuse-address", "v2-deprecation"),
)
_ALONE = ("compact-hash-check-enabled", "enable-lease-checkpoint", "memory-mlock", "peer-skip-client-san-verification")
_BOOLS = {
    *(prefix + name for name in _ALONE for prefix in ("", "experimental-")),
    *("experimental-txn-mode-write-with-shared-buffer", "initial-election-tick-advance", "socket-reuse-address"),
}
FLAGS = (
    *map(Foreign, _IDLE),
    Foreign("auto-tls", _OFF, "identity is by certificates of a CA: see --cert-file"),
    Foreign("cipher-suites", ("",), "the ciphers are those of this machine's OpenSSL"),
    Foreign("client-cert-allowed-hostname", ("",), "clients are told apart by --client-cert-allowed-cn"),
    Foreign("client-crl-file", ("",), "revocation lists are not looked at"),
    Foreign("cors", ("*", ""), "nothing is served to browsers"),
    Foreign("discovery", ("",), "name the members with --initial-cluster"),
    Foreign("discovery-proxy", ("",), "name the members with --initial-cluster"),
    Foreign("discovery-srv", ("",), "name the members with --initial-cluster"),
    Foreign("discovery-srv-name", ("",), "name the members with --initial-cluster"),
    Foreign("enable-distributed-tracing", _OFF, "there are no traces"),
    Foreign("enable-log-rotation", _OFF, "a file of --log-outputs may be moved away by logrotate"),
    Foreign("enable-pprof", _OFF, "there are no profiles of Go"),
    Foreign("enable-v2", _OFF, "there is no v2 API"),
    Foreign("experimental-enable-distributed-tracing", _OFF, "there are no traces"),
    Foreign("experimental-enable-v2v3", ("",), "there is no v2 API"),
    Foreign("force-new-cluster", _OFF, "begin a new cluster with a backup: raykube kv snapshot restore"),
    Foreign("host-whitelist", ("*", ""), "nothing is served to browsers"),
    Foreign("logger", ("zap", ""), "there is one form of log lines"),
    Foreign("peer-auto-tls", _OFF, "identity is by certificates of a CA: see --peer-cert-file"),
    Foreign("peer-cert-allowed-hostname", ("",), "members are told apart by --peer-cert-allowed-cn"),
    Foreign("peer-crl-file", ("",), "revocation lists are not looked at"),
    Foreign("proxy", ("off", ""), "there is no v2 API"),
    Foreign("socket-reuse-port", _OFF, "two members on one port would both answer"),
    Foreign("tls-max-version", ("TLS1.3", ""), "it is TLS1.3"),
    Foreign("tls-min-version", ("TLS1.2", ""), "it is TLS1.2"),
    Foreign("unsafe-no-fsync", _OFF, "acknowledged writes would be lost"),
)

# A section of etcd's file, and how the flags of its keys begin.
_SECTIONS = {"client-transport-security": "", "peer-transport-security": "peer-"}
_OF_CLIENTS = {"allowed-cn": "client-cert-allowed-cn", "allowed-hostname": "client-cert-allowed-hostname"}
_OF_PEERS = {"allowed-cn": "cert-allowed-cn", "allowed-hostname": "cert-allowed-hostname"}


def check(given: Mapping[str, str]) -> list[str]:
    """The names of those flags that change nothing although they were given. Raises ValueError for what is refused."""
    idle = []
    for flag in FLAGS:
        value = given.get(flag.name)
        if value is None:
            continue
        if flag.values is None:
            idle.append(flag.name)
        elif value.lower() not in (known.lower() for known in flag.values):
            raise ValueError(f"--{flag.name}={value} is not supported: {flag.reason}")
    return idle


def arguments(path: Path) -> list[str]:
    """The command line that etcd's `--config-file` stands for. Raises ValueError with a line for the user."""
    try:
        found = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ValueError(f"--config-file: cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--config-file {path}: {' '.join(str(error).split())}") from None
    if found is None:
        return []
    if not isinstance(found, dict):
        raise ValueError(f"--config-file {path}: it holds no keys and values")
    listed = []
    for key, value in found.items():
        if key not in _SECTIONS:
            listed += _argument(path, str(key), value)
        elif isinstance(value, dict):
            other = _OF_PEERS if _SECTIONS[key] else _OF_CLIENTS
            for name, each in value.items():
                listed += _argument(path, f"{_SECTIONS[key]}{other.get(str(name), name)}", each)
        elif value is not None:
            raise ValueError(f"--config-file {path}: {key} holds no keys and values")
    return listed


def _argument(path: Path, name: str, value: Any) -> list[str]:
    if value is None or value == "":
        return []
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, list):
        value = ",".join(map(str, value))
    elif isinstance(value, dict):
        raise ValueError(f"--config-file {path}: {name} holds keys and values")
    return [f"--{name}={value}"]
