"""The flags of `raykube kv`: etcd's names and defaults."""

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raykube.base.duration import Duration, parse_duration
from raykube.kv.core.identity import check_url, parse_initial_cluster


class Config(BaseModel):
    """One member of the store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field("default", description="this member's name, as in --initial-cluster")
    data_dir: Path = Field(
        Path("default.etcd"), description="where this member keeps its log and snapshots; not given: NAME.etcd"
    )
    wal_dir: Path | None = Field(
        None, description="where the log is kept, for a disk of its own; not given: in --data-dir"
    )
    snapshot_count: int = Field(10_000, description="applied entries between two snapshots", gt=0)
    heartbeat_interval: int = Field(100, description="milliseconds between heartbeats of the leader", gt=0)
    election_timeout: int = Field(1000, description="milliseconds without a leader before an election", gt=0)
    listen_peer_urls: list[str] = Field(["http://127.0.0.1:2380"], description="addresses for other members")
    listen_client_urls: list[str] = Field(["http://127.0.0.1:2379"], description="addresses for clients")
    quota_backend_bytes: int = Field(
        2 << 30, description="refuse writes when the store holds more; 0: 2 GiB, negative: no bound"
    )
    max_txn_ops: int = Field(128, description="most operations in a transaction", gt=0)
    max_request_bytes: int = Field(1_572_864, description="largest request of etcd's API", gt=0)
    initial_advertise_peer_urls: list[str] = Field(
        [], description="addresses told to members; empty: those of --initial-cluster, or --listen-peer-urls"
    )
    initial_cluster: list[str] = Field([], description="the members: m1=https://10.0.0.1:2380,m2=…; empty: this one")
    initial_cluster_state: Literal["new", "existing"] = Field("new", description="'existing' joins a cluster that runs")
    initial_cluster_token: str = Field("etcd-cluster", description="tells clusters with equal addresses apart")
    advertise_client_urls: list[str] = Field([], description="addresses told to clients; empty: where it listens")
    strict_reconfig_check: bool = Field(True, description="members change only while a quorum is left; always so")
    pre_vote: bool = Field(True, description="a member asks before it calls an election; always so")
    auto_compaction_retention: str = Field(
        "0",
        description="history to keep: a duration, hours without a unit, or with mode 'revision' a number; 0: all",
    )
    auto_compaction_mode: Literal["periodic", "revision"] = Field("periodic", description="what is retained")
    cert_file: Path | None = Field(None, description="certificate for clients")
    key_file: Path | None = Field(None, description="key of --cert-file")
    client_cert_auth: bool = Field(True, description="clients must show a certificate; always so with https")
    client_cert_allowed_cn: list[str] = Field(
        [], description="common names of the certificates that clients may show; empty: all that the CA signed"
    )
    trusted_ca_file: Path | None = Field(None, description="the CA that signs clients' certificates")
    peer_cert_file: Path | None = Field(None, description="certificate for other members")
    peer_key_file: Path | None = Field(None, description="key of --peer-cert-file")
    peer_client_cert_auth: bool = Field(True, description="members must show a certificate; always so with https")
    peer_trusted_ca_file: Path | None = Field(None, description="the CA that signs members' certificates")
    peer_cert_allowed_cn: list[str] = Field(
        [], description="common names of the certificates that members may show; empty: all that the CA signed"
    )
    listen_metrics_urls: list[str] = Field(
        [], description="addresses for /health, /livez, /readyz and /metrics; with https as --listen-client-urls"
    )
    log_level: Literal["debug", "info", "warn", "error", "panic", "fatal"] = Field(
        "info", description="what is logged; -v says it in numbers"
    )
    log_outputs: list[str] = Field(
        ["default"], description="where log lines go: stderr (default), stdout, or files", min_length=1
    )
    watch_progress_notify_interval: Duration = Field(
        600.0,
        description="how often an idle watch hears the revision",
        json_schema_extra={"also": ["experimental-watch-progress-notify-interval"]},
    )
    initial_corrupt_check: bool = Field(
        True,
        description="members compare what they hold; always so, and all the time",
        json_schema_extra={"also": ["experimental-initial-corrupt-check"]},
    )

    @model_validator(mode="before")
    @classmethod
    def _name_data_dir(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {"data_dir": f"{values.get('name', 'default')}.etcd", **values}

    @field_validator(
        "listen_client_urls",
        "listen_peer_urls",
        "advertise_client_urls",
        "initial_advertise_peer_urls",
        "listen_metrics_urls",
    )
    @classmethod
    def _check_urls(cls, urls: list[str]) -> list[str]:
        for url in urls:
            check_url(url)
        return urls

    @field_validator("auto_compaction_retention")
    @classmethod
    def _check_retention(cls, text: str) -> str:
        if not text.isdigit():
            parse_duration(text)
        return text

    @model_validator(mode="after")
    def _check(self) -> "Config":
        if self.election_timeout < 5 * self.heartbeat_interval:
            raise ValueError("--election-timeout must be at least 5 times --heartbeat-interval")
        if not self.listen_client_urls or not self.listen_peer_urls:
            raise ValueError("--listen-client-urls and --listen-peer-urls must not be empty")
        if self.auto_compaction_mode == "revision" and not self.auto_compaction_retention.isdigit():
            raise ValueError("--auto-compaction-retention must be a number in mode 'revision'")
        members = parse_initial_cluster(self.members_given, self.initial_cluster_token)
        if self.name not in {member.name for member in members.members}:
            raise ValueError(f"--initial-cluster does not name this member, {self.name!r}")
        for flag, urls, files in (
            (
                "cert-file",
                [*self.listen_client_urls, *self.listen_metrics_urls],
                (self.cert_file, self.key_file, self.trusted_ca_file),
            ),
            (
                "peer-cert-file",
                self.listen_peer_urls,
                (self.peer_cert_file, self.peer_key_file, self.peer_trusted_ca_file),
            ),
        ):
            if any(url.startswith("https:") for url in urls) and None in files:
                raise ValueError(f"https needs --{flag}, its key and its trusted CA file")
        for flag, urls, names in (
            ("client-cert-allowed-cn", self.listen_client_urls, self.client_cert_allowed_cn),
            ("peer-cert-allowed-cn", self.listen_peer_urls, self.peer_cert_allowed_cn),
        ):
            if names and not all(url.startswith("https:") for url in urls):
                raise ValueError(f"--{flag} needs https: without it nobody shows a certificate")
        for flag, urls, is_on in (
            ("client-cert-auth", self.listen_client_urls, self.client_cert_auth),
            ("peer-client-cert-auth", self.listen_peer_urls, self.peer_client_cert_auth),
        ):
            if not is_on and any(url.startswith("https:") for url in urls):
                raise ValueError(f"--{flag}=false is not supported: with https, certificates are always checked")
        return self

    @property
    def peer_urls(self) -> list[str]:
        """Where other members find this one: where it may listen (0.0.0.0) says less than what all members are told."""
        named = [item.partition("=")[2] for item in self.initial_cluster if item.startswith(f"{self.name}=")]
        return self.initial_advertise_peer_urls or named or self.listen_peer_urls

    @property
    def client_urls(self) -> list[str]:
        """Where clients are told to find this member."""
        return self.advertise_client_urls or self.listen_client_urls

    @property
    def members_given(self) -> list[str]:
        """`--initial-cluster`, or this member alone."""
        return self.initial_cluster or [f"{self.name}={url}" for url in self.peer_urls]

    @property
    def is_described(self) -> bool:
        """Whether the flags say which cluster this is. With a log they need not; what they say must agree with it."""
        return bool(self.initial_cluster) or "initial_cluster_token" in self.model_fields_set

    @property
    def quota_bytes(self) -> int:
        """Bytes that the store may hold; as in etcd 0 is 2 GiB, and a negative number no bound."""
        return (self.quota_backend_bytes or 2 << 30) if self.quota_backend_bytes >= 0 else sys.maxsize

    @property
    def retained_s(self) -> float:
        """Seconds of history that automatic compaction keeps; 0: it does not go by time."""
        if self.auto_compaction_mode != "periodic":
            return 0.0
        text = self.auto_compaction_retention
        return float(text) * 3600 if text.isdigit() else parse_duration(text)

    @property
    def retained_revisions(self) -> int:
        """Revisions of history that automatic compaction keeps; 0: it does not go by number."""
        return int(self.auto_compaction_retention) if self.auto_compaction_mode == "revision" else 0
