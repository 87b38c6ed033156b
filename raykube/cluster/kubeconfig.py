"""The user's kubeconfig: one entry for this cluster goes in on `up` and out on `down`; all others stay as they are.

An *entry* is the cluster, user and context of one name, `raykube-NAME`. kubectl takes one server for a cluster; where
there are more, each has a cluster and context of its own, `raykube-NAME@MACHINE`, of the same user. Rules: other
entries, unknown fields and their order are kept; the file is replaced at once with mode 0600 (through a symlink, its
target is); a file that is no kubeconfig is never overwritten. Writers of one file wait for each other by `FILE.lock`,
as kubectl does.
"""

import base64
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from raykube.cluster.pki import PemPair, write_file

LOCK_WAIT_S = 3.0
GRPC_EXTENSION = "raykube.io/grpc"
ADVICE = "give another with --kubeconfig"
REPAIR = f"repair or move it, or {ADVICE}"
LISTS = ("clusters", "users", "contexts")


class KubeconfigError(ValueError):
    """The file cannot be read or written; the message is one line for the user."""


def target(environment: str | None, home: Path) -> Path:
    """The file to write, given the value of $KUBECONFIG (a list: its first entry) and the home folder."""
    first = next((part for part in (environment or "").split(os.pathsep) if part), "")
    return Path(first) if first else home / ".kube" / "config"


def entry_name(cluster: str) -> str:
    """The name of cluster, user and context of raykube cluster `cluster`."""
    return f"raykube-{cluster}"


def document(
    cluster: str, servers: Mapping[str, str], ca_cert: bytes, admin: PemPair, grpc_servers: Sequence[str] = ()
) -> dict[str, Any]:
    """A kubeconfig of this one entry, certificates embedded. `servers`: https URL by machine, the best first.

    `grpc_servers` (host:port) go into the cluster's extension `raykube.io/grpc`, where `raykube.Client` finds them and
    every other client passes them by.
    """

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    name = entry_name(cluster)
    user = {"client-certificate-data": encoded(admin.cert), "client-key-data": encoded(admin.key)}
    shared: dict[str, Any] = {"certificate-authority-data": encoded(ca_cert)}
    if grpc_servers:
        shared["extensions"] = [{"name": GRPC_EXTENSION, "extension": {"servers": list(grpc_servers)}}]
    named = {name: next(iter(servers.values()))}
    if len(servers) > 1:
        named |= {f"{name}@{machine}": server for machine, server in servers.items()}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": each, "cluster": {"server": server} | shared} for each, server in named.items()],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": each, "context": {"cluster": each, "user": name}} for each in named],
        "current-context": name,
    }


def merge(
    path: Path,
    cluster: str,
    servers: Mapping[str, str],
    ca_cert: bytes,
    admin: PemPair,
    grpc_servers: Sequence[str] = (),
) -> None:
    """Puts this cluster's entry into `path` (made when missing) and makes its context the current one."""
    new = document(cluster, servers, ca_cert, admin, grpc_servers)
    real = _resolve(path)
    with _locked(real):
        config = _read(real)
        merged = config or {"apiVersion": "v1", "kind": "Config"}
        for field in LISTS:
            stale = [item for item in merged.get(field) or [] if _is_stale(item, new, field)]
            kept = [item for item in merged.get(field) or [] if item not in stale]
            for item in new[field]:
                kept = _replaced(kept, item)
            merged[field] = kept
        merged["current-context"] = new["current-context"]
        merged.setdefault("preferences", {})
        _write(real, merged)


def check(path: Path) -> None:
    """Raises KubeconfigError when `merge` would: better known before a cluster starts than after."""
    real = _resolve(path)
    with _locked(real):
        _read(real)


def remove(path: Path, cluster: str) -> bool:
    """Takes this cluster's entry out of `path`; returns whether there was one. A missing file is fine."""
    name = entry_name(cluster)
    real = _resolve(path)
    if not real.exists():
        return False
    with _locked(real):
        config = _read(real)
        if config is None:
            return False
        found = False
        for field in LISTS:
            items = config.get(field) or []
            kept = [item for item in items if not _is_of(item, name)]
            if len(kept) != len(items):
                config[field] = kept
                found = True
        if _is_of({"name": config.get("current-context")}, name):
            config["current-context"] = ""
            found = True
        if found:
            _write(real, config)
        return found


def _is_of(item: Mapping[str, Any], entry: str) -> bool:
    name = str(item.get("name"))
    return name == entry or name.startswith(f"{entry}@")


def _is_stale(item: dict[str, Any], new: dict[str, Any], field: str) -> bool:
    """Whether `item` is of the same entry as `new`, and of a machine that this no longer names."""
    return _is_of(item, new["current-context"]) and item.get("name") not in {each["name"] for each in new[field]}


def _replaced(items: list[Any], new: dict[str, Any]) -> list[Any]:
    """`items` with the item of the same name replaced in its place, or `new` appended."""
    if any(item.get("name") == new["name"] for item in items):
        return [new if item.get("name") == new["name"] else item for item in items]
    return [*items, new]


def _resolve(path: Path) -> Path:
    try:
        real = path.expanduser().resolve()
        real.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    except (OSError, RuntimeError) as error:
        raise KubeconfigError(f"cannot write the kubeconfig {path}: {error}; {ADVICE}") from None
    return real


def _read(path: Path) -> dict[str, Any] | None:
    """The parsed file; None when it is missing or empty."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KubeconfigError(f"cannot read the kubeconfig {path}: {error.strerror}; {ADVICE}") from None
    except UnicodeDecodeError:
        raise KubeconfigError(f"{path} is not a kubeconfig (not UTF-8): {REPAIR}") from None
    advice = f"{path} is not a kubeconfig ({{}}): {REPAIR}"
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or "not YAML"
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {problem}" if mark else str(problem)
        raise KubeconfigError(advice.format(where)) from None
    if config is None:
        return None
    if not isinstance(config, dict) or config.get("kind", "Config") != "Config":
        raise KubeconfigError(advice.format("its kind is not Config"))
    for field in LISTS:
        items = config.get(field) or []
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise KubeconfigError(advice.format(f"{field} is not a list of entries"))
    return config


def _write(path: Path, config: dict[str, Any]) -> None:
    text = yaml.safe_dump(config, sort_keys=False, default_flow_style=False, allow_unicode=True)
    try:
        write_file(path, text.encode(), 0o600)
    except OSError as error:
        raise KubeconfigError(f"cannot write the kubeconfig {path}: {error.strerror}; {ADVICE}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = path.with_name(path.name + ".lock")
    deadline = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                raise KubeconfigError(
                    f"{lock} exists: another program is writing the kubeconfig; remove that file if none is"
                ) from None
            time.sleep(0.05)
        except OSError as error:
            raise KubeconfigError(f"cannot write the kubeconfig {path}: {error.strerror}; {ADVICE}") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
