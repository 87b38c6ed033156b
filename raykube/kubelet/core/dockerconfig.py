"""Credentials for registries, from image pull secrets: `.dockerconfigjson` and the older `.dockercfg`.

A key names a registry, `[https://]HOST[:PORT][/PATH]`; parts of HOST may be globs (`*.example.com`). For an image all
entries are tried whose host fits and whose path begins the image's, the longer names first.
"""

import base64
import binascii
import fnmatch
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from raykube.kubelet.core.pod import Object

JSON_TYPE, JSON_KEY = "kubernetes.io/dockerconfigjson", ".dockerconfigjson"
OLD_TYPE, OLD_KEY = "kubernetes.io/dockercfg", ".dockercfg"
_DEFAULT_KEYS = ("index.docker.io", "docker.io")


@dataclass(frozen=True, slots=True)
class Credentials:
    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    server_address: str = ""
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


def _entry(registry: str, value: Any) -> Credentials:
    """Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"the entry of {registry} is no object")
    username, password = str(value.get("username") or ""), str(value.get("password") or "")
    auth = str(value.get("auth") or "")
    if auth:
        try:
            text = base64.b64decode(auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ValueError(f"the auth of {registry} is no base64") from None
        username, colon, password = text.partition(":")
        if not colon:
            raise ValueError(f"the auth of {registry} is not USERNAME:PASSWORD")
    tokens = (str(value.get("identitytoken") or ""), str(value.get("registrytoken") or ""))
    return Credentials(username, password, "", registry, *tokens)


def parse(secret: Object) -> dict[str, Credentials]:
    """The entries of a Secret, by key; none for a Secret of another type. Raises ValueError."""
    data = secret.get("data") or {}
    kind = secret.get("type")
    key = {JSON_TYPE: JSON_KEY, OLD_TYPE: OLD_KEY}.get(str(kind))
    if key is None or key not in data:
        return {}
    try:
        document = json.loads(base64.b64decode(data[key]))
    except (binascii.Error, ValueError):
        raise ValueError(f"{key} is no JSON") from None
    entries = document.get("auths") if kind == JSON_TYPE and isinstance(document, dict) else document
    if not isinstance(entries, dict):
        raise ValueError(f"{key} has no entries")
    return {registry: _entry(registry, value) for registry, value in entries.items()}


def _key(registry: str) -> tuple[str, str]:
    """(host with port, path) of a registry's name; the path of its API counts for nothing."""
    parts = urlsplit(registry if "://" in registry else f"https://{registry}")
    path = parts.path
    for version in ("/v1", "/v2"):
        if path == version or path.startswith(f"{version}/"):
            path = path[len(version) :]
    return parts.netloc, path.rstrip("/")


def _host_matches(pattern: str, host: str) -> bool:
    """Part by part: a glob never spans a dot; ports must be equal."""
    patterns, _, pattern_port = pattern.partition(":")
    parts, _, port = host.partition(":")
    mine, theirs = patterns.split("."), parts.split(".")
    if pattern_port != port or len(mine) != len(theirs):
        return False
    return all(fnmatch.fnmatchcase(part, glob) for glob, part in zip(mine, theirs, strict=True))


class Keyring:
    def __init__(self, secrets: Iterable[dict[str, Credentials]]) -> None:
        self._entries: list[tuple[str, str, Credentials]] = []
        for entries in secrets:
            for registry, credentials in entries.items():
                found = (*_key(registry), credentials)
                if found not in self._entries:
                    self._entries.append(found)
        self._entries.sort(key=lambda entry: entry[0] + entry[1], reverse=True)

    def lookup(self, repository: str) -> list[Credentials]:
        """What to try for a repository (with its registry), in this order; empty: ask without credentials."""
        host, _, rest = repository.partition("/")
        path = f"/{rest}"
        found = [
            credentials
            for pattern, prefix, credentials in self._entries
            if _host_matches(pattern, host) and path.startswith(prefix)
        ]
        if not found and host in _DEFAULT_KEYS:
            found = [credentials for pattern, _, credentials in self._entries if pattern in _DEFAULT_KEYS]
        return found
