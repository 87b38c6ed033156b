"""Where the apiservers are, and who the user is, from a kubeconfig.

The gRPC addresses are in the cluster's entry, in an extension that other clients pass by:

    clusters:
    - name: raykube-dev
      cluster:
        server: https://127.0.64.1:6443
        extensions:
        - name: raykube.io/grpc
          extension: {servers: ["127.0.64.2:6444"]}

gRPC reads certificates from files, so embedded ones are written to a private folder (mode 0700) that `close` removes.
"""

import base64
import binascii
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raykube.rpc import Tls

GRPC_EXTENSION = "raykube.io/grpc"


class KubeconfigError(ValueError):
    """The kubeconfig does not say how to connect; the message is one line for the user."""


@dataclass
class Connection:
    """How to connect: addresses of gRPC APIs, certificates, the namespace that is meant when none is said."""

    endpoints: list[str]
    tls: Tls | None
    namespace: str
    folder: Path | None = None

    def close(self) -> None:
        """Removes the files made for this connection."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder = None


def connect(paths: Sequence[Path], context: str | None = None) -> Connection:
    """The connection that a context (None: the current one) describes, merged from files. Raises KubeconfigError."""
    config = _merged(paths)
    where = os.pathsep.join(map(str, paths))
    name = context or config["current-context"]
    if not name:
        raise KubeconfigError(f"{where} has no current context: name one, or start a cluster with `raykube up`")
    chosen = _entry(config, "contexts", name, where)
    cluster = _entry(config, "clusters", chosen.get("cluster", ""), where)
    user = _entry(config, "users", chosen.get("user", ""), where)
    endpoints: list[str] = []
    for item in cluster.get("extensions") or ():
        if item.get("name") == GRPC_EXTENSION:
            endpoints = list((item.get("extension") or {}).get("servers") or ())
    if not endpoints:
        raise KubeconfigError(
            f"context {name!r} of {where} is no raykube cluster: its cluster entry has no extension {GRPC_EXTENSION!r}"
        )
    folder = Path(tempfile.mkdtemp(prefix="raykube-client-"))  # mode 0700
    try:
        tls = Tls(
            _file(user, "client-certificate", folder / "client.crt", where),
            _file(user, "client-key", folder / "client.key", where),
            _file(cluster, "certificate-authority", folder / "ca.crt", where),
        )
    except (KubeconfigError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Connection(endpoints, tls, str(chosen.get("namespace") or "default"), folder)


def _merged(paths: Sequence[Path]) -> dict[str, Any]:
    """kubectl's rule for several files: the first to name something wins."""
    merged: dict[str, Any] = {"current-context": "", "contexts": {}, "clusters": {}, "users": {}}
    found = False
    for path in paths:
        try:
            config = yaml.safe_load(path.read_text()) or {}
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise KubeconfigError(f"cannot read the kubeconfig {path}: {error}") from None
        if not isinstance(config, dict):
            raise KubeconfigError(f"{path} is not a kubeconfig")
        found = True
        merged["current-context"] = merged["current-context"] or config.get("current-context") or ""
        for kind, field in (("contexts", "context"), ("clusters", "cluster"), ("users", "user")):
            for item in config.get(kind) or ():
                entry = dict(item.get(field) or {})
                entry["_folder"] = path.parent  # relative file names are relative to their kubeconfig
                merged[kind].setdefault(item.get("name"), entry)
    if not found:
        raise KubeconfigError(
            f"there is no kubeconfig at {os.pathsep.join(map(str, paths))}: start a cluster with `raykube up`"
        )
    return merged


def _entry(config: dict[str, Any], kind: str, name: str, where: str) -> dict[str, Any]:
    found: dict[str, Any] | None = config[kind].get(name)
    if found is None:
        raise KubeconfigError(f"{where} has no {kind.removesuffix('s')} {name!r}")
    return found


def _file(entry: dict[str, Any], field: str, target: Path, where: str) -> Path:
    """The file of a certificate or key; embedded data is written to `target`."""
    data = entry.get(f"{field}-data")
    if data:
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise KubeconfigError(f"{field}-data in {where} is not base64") from None
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        return target
    named = entry.get(field)
    if not named:
        raise KubeconfigError(f"{where} has neither {field} nor {field}-data: raykube.Client needs a certificate")
    path: Path = entry["_folder"] / named
    if not path.exists():
        raise KubeconfigError(f"{field} {path} named in {where} does not exist")
    return path
