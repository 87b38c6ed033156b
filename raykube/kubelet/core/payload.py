"""The files of volumes that are made of objects: configMap, secret, downwardAPI, projected.

A payload maps relative paths to content and mode. How it reaches the disk is the shell's affair.
"""

from dataclasses import dataclass

from raykube.kubelet.core import downward
from raykube.kubelet.core.ownership import fs_group, fs_user
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.sources import Kind, SourceMissing, Sources

MODE_DEFAULT = 0o644
_OBJECT_SOURCES: tuple[tuple[Kind, str], ...] = (("ConfigMap", "configMap"), ("Secret", "secret"))


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    mode: int
    user: int | None = None  # who owns it, if not root


Payload = dict[str, File]


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the downward API needs besides the pod."""

    pod_ip: str
    host_ips: tuple[str, ...]
    allocatable: dict[str, str]


def check_path(path: str) -> str:
    """A relative path that stays inside. Raises ValueError."""
    parts = path.split("/")
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ValueError(f"invalid path {path!r}: must be relative and must not contain '..'")
    return path


def _from_data(
    sources: Sources, kind: Kind, name: str, items: list[Object] | None, mode: int, optional: bool
) -> Payload:
    data = sources.data(kind, name, optional)
    if data is None:
        return {}
    if not items:
        return {check_path(key): File(content, mode) for key, content in data.items()}
    payload: Payload = {}
    for item in items:
        if item["key"] not in data:
            if optional:
                continue
            raise SourceMissing(
                f"references non-existent {'config' if kind == 'ConfigMap' else 'secret'} key: {item['key']}"
            )
        item_mode = item.get("mode")
        payload[check_path(item["path"])] = File(data[item["key"]], mode if item_mode is None else int(item_mode))
    return payload


def _downward(pod: Object, items: list[Object], mode: int, facts: PodFacts) -> Payload:
    payload: Payload = {}
    for item in items:
        if "fieldRef" in item:
            text = downward.field_value(pod, item["fieldRef"]["fieldPath"], facts.pod_ip, facts.host_ips)
        else:
            reference = item["resourceFieldRef"]
            text = downward.resource_value(pod, reference, reference.get("containerName", ""), facts.allocatable)
        item_mode = item.get("mode")
        payload[check_path(item["path"])] = File(text.encode(), mode if item_mode is None else int(item_mode))
    return payload


def token_requests(volume: Object) -> list[Object]:
    """The serviceAccountToken sources of a projected volume."""
    return [
        source["serviceAccountToken"]
        for source in (volume.get("projected") or {}).get("sources") or ()
        if "serviceAccountToken" in source
    ]


def payload(pod: Object, volume: Object, sources: Sources, tokens: list[str], facts: PodFacts) -> Payload:
    """The files of one volume; `tokens` answer `token_requests`, in order. Raises SourceMissing and ValueError."""
    if "configMap" in volume:
        source = volume["configMap"]
        mode = _mode(source)
        return _from_data(sources, "ConfigMap", source["name"], source.get("items"), mode, bool(source.get("optional")))
    if "secret" in volume:
        source = volume["secret"]
        mode = _mode(source)
        return _from_data(
            sources, "Secret", source["secretName"], source.get("items"), mode, bool(source.get("optional"))
        )
    if "downwardAPI" in volume:
        return _downward(pod, volume["downwardAPI"].get("items") or [], _mode(volume["downwardAPI"]), facts)
    return _projected(pod, volume["projected"], sources, tokens, facts)


# What a projected volume may name that no part of this cluster serves.
_UNSERVED = {
    "clusterTrustBundle": "ClusterTrustBundle projection is not supported: this cluster does not serve that kind",
    "podCertificate": "PodCertificate projection is not supported: this cluster does not serve PodCertificateRequests",
}
TOKEN_MODE = 0o600  # where the volume says who may read it


def _mode(source: Object) -> int:
    mode = source.get("defaultMode")
    return MODE_DEFAULT if mode is None else int(mode)


def _projected(pod: Object, projected: Object, sources: Sources, tokens: list[str], facts: PodFacts) -> Payload:
    mode = _mode(projected)
    result: Payload = {}
    remaining = iter(tokens)
    for source in projected.get("sources") or ():
        for name, reason in _UNSERVED.items():
            if name in source and not source[name].get("optional"):
                raise ValueError(reason)
        if "serviceAccountToken" in source:
            # A token is nobody else's business; but without a group or one user of all, a container's may be any.
            user, group = fs_user(pod), fs_group(pod)
            own_mode = mode if user is None and group is None else TOKEN_MODE
            file = File(next(remaining).encode(), own_mode, user)
            result[check_path(source["serviceAccountToken"]["path"])] = file
        for kind, key in _OBJECT_SOURCES:
            if key in source:
                one = source[key]
                optional = bool(one.get("optional"))
                result |= _from_data(sources, kind, one["name"], one.get("items"), mode, optional)
        if "downwardAPI" in source:
            result |= _downward(pod, source["downwardAPI"].get("items") or [], mode, facts)
    return result
