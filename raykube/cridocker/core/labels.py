"""What is written on a container to find it again: labels and names.

    io.raykube.cri.type       sandbox or container; who lacks it is not ours
    io.raykube.cri.sandbox    of a container: its sandbox's id
    io.raykube.cri.log        of a container: its log file
    io.raykube.cri.config     the CRI message it was made of, in base64, without what docker knows itself

The labels that CRI gave stand beside them under their own names, so that `docker ps --filter label=...` finds a pod.
"""

import base64
import re
from collections.abc import Mapping
from typing import Any

from google.protobuf.message import DecodeError

from raykube.pb import cri_pb2

TYPE = "io.raykube.cri.type"
SANDBOX = "io.raykube.cri.sandbox"
LOG = "io.raykube.cri.log"
CONFIG = "io.raykube.cri.config"
IS_SANDBOX, IS_CONTAINER = "sandbox", "container"

Object = dict[str, Any]


def _pack(message: cri_pb2.PodSandboxConfig | cri_pb2.ContainerConfig) -> str:
    return base64.b64encode(message.SerializeToString()).decode()


def of_sandbox(config: cri_pb2.PodSandboxConfig) -> dict[str, str]:
    return dict(config.labels) | {TYPE: IS_SANDBOX, CONFIG: _pack(config)}


def of_container(sandbox_id: str, config: cri_pb2.ContainerConfig, log_path: str) -> dict[str, str]:
    kept = cri_pb2.ContainerConfig()
    kept.CopyFrom(config)
    for known in ("envs", "command", "args"):
        kept.ClearField(known)
    return dict(config.labels) | {TYPE: IS_CONTAINER, SANDBOX: sandbox_id, LOG: log_path, CONFIG: _pack(kept)}


def sandbox_config(labels: Mapping[str, str]) -> cri_pb2.PodSandboxConfig:
    """An empty one when somebody spoilt the label."""
    try:
        return cri_pb2.PodSandboxConfig.FromString(base64.b64decode(labels.get(CONFIG, "")))
    except (ValueError, DecodeError):
        return cri_pb2.PodSandboxConfig()


def container_config(labels: Mapping[str, str]) -> cri_pb2.ContainerConfig:
    """Without environment and command; an empty one when somebody spoilt the label."""
    try:
        return cri_pb2.ContainerConfig.FromString(base64.b64decode(labels.get(CONFIG, "")))
    except (ValueError, DecodeError):
        return cri_pb2.ContainerConfig()


def wanted(kind: str, selector: Mapping[str, str], sandbox_id: str = "") -> list[str]:
    """The value of docker's filter `label`."""
    found = [f"{TYPE}={kind}", *(f"{key}={value}" for key, value in selector.items())]
    return [*found, f"{SANDBOX}={sandbox_id}"] if sandbox_id else found


def name(container: str, pod: cri_pb2.PodSandboxMetadata, attempt: int) -> str:
    """A name that a second attempt to make the same thing meets again: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT."""
    text = "_".join(("k8s", container, pod.name, pod.namespace, pod.uid, str(attempt)))
    return re.sub(r"[^a-zA-Z0-9_.-]", "-", text)


SANDBOX_NAME = "POD"
