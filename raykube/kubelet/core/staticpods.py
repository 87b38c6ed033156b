"""Static pods: out of manifests of this machine, whatever the API says; and the mirror pods that show them there.

    manifest "web" on node n1 ──► pod web-n1, uid = hash of node, origin and manifest; annotations
                                  kubernetes.io/config.{hash,source,seen}
                            └──► mirror in the API: the same with kubernetes.io/config.mirror = hash, owned by the Node

A changed manifest is another pod of the same name: the old one ends before the new one starts.
"""

import copy
import hashlib
import json
import re
from collections.abc import Iterable

import orjson
import yaml

from raykube.api import defaults, schema, validation
from raykube.api.errors import ApiError
from raykube.api.resources import builtin
from raykube.api.validation.groups import SYSTEM_PRIORITIES
from raykube.base.clock import rfc3339
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.pod import MIRROR, SOURCE, Object
from raykube.kubelet.core.sources import references

PODS = builtin("v1", "Pod")
HASH = "kubernetes.io/config.hash"
SEEN = "kubernetes.io/config.seen"
_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EVERYTHING = {"operator": "Exists", "effect": "NoExecute"}


class BadManifest(ValueError):
    """A manifest that is no pod; the message says why."""


def full_name(pod: Object) -> tuple[str, str]:
    return pods.namespace(pod), pods.name(pod)


def from_manifest(data: bytes, source: str, origin: str, node: str, now: float) -> list[Object]:
    """The pods of a manifest (a Pod or a PodList, YAML or JSON). `source`: "file" or "http". Raises BadManifest."""
    try:
        return _read(data, source, origin, node, now)
    except BadManifest:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # YAML says much that no object of the API can hold: values within themselves, keys that are no text. And its
        # parser fails in many ways where a tag does not fit its value (`!!bool maybe`).
        raise BadManifest(f"couldn't parse as pod: {' '.join(str(error).split())}") from None


def _read(data: bytes, source: str, origin: str, node: str, now: float) -> list[Object]:
    try:
        documents = [document for document in yaml.safe_load_all(data) if document is not None]
    except (yaml.YAMLError, ValueError) as error:
        raise BadManifest(f"couldn't parse as pod: {' '.join(str(error).split())}") from None
    found: list[Object] = []
    for document in documents:
        if not isinstance(document, dict):
            raise BadManifest("couldn't parse as pod: not an object")
        kind = (document.get("apiVersion"), document.get("kind"))
        if kind == ("v1", "Pod"):
            found.append(document)
        elif kind in (("v1", "PodList"), ("v1", "List")):
            found.extend({"apiVersion": "v1", "kind": "Pod", **item} for item in document.get("items") or ())
        else:
            raise BadManifest(f"couldn't parse as pod: kind {kind[1]!r} of {kind[0]!r} is no Pod")
    if not found:
        raise BadManifest("couldn't parse as pod: it is empty")
    return [_complete(pod, source, origin, node, now) for pod in found]


def _complete(pod: Object, source: str, origin: str, node: str, now: float) -> Object:
    """What the API would have added, and what makes the pod static. Raises BadManifest."""
    # As plain JSON: YAML has dates and numbers of its own.
    pod = json.loads(json.dumps(pod, default=str))
    if not isinstance(pod.get("metadata"), dict) or not isinstance(pod.get("spec"), dict):
        raise BadManifest("invalid pod: metadata and spec must be objects")
    metadata, spec = pod["metadata"], pod["spec"]
    key = json.dumps([node, f"{source}:{origin}", pod], sort_keys=True)
    identity = metadata.get("uid") or hashlib.sha256(key.encode()).hexdigest()[:32]
    if not _UID.fullmatch(str(identity)):  # it becomes the name of directories
        raise BadManifest(f"invalid pod: metadata.uid: Invalid value: {json.dumps(identity)}")
    metadata["uid"] = identity
    name = metadata.get("name") or ""
    if not name:
        raise BadManifest("invalid pod: metadata.name: Required value")
    metadata["name"] = f"{name}-{node}"
    metadata.setdefault("namespace", "default")
    annotations = metadata["annotations"] = dict(metadata.get("annotations") or {})
    annotations |= {HASH: identity, SOURCE: source, SEEN: rfc3339(now)}
    spec["nodeName"] = node
    spec["tolerations"] = [*(spec.get("tolerations") or ()), _EVERYTHING]
    pod.pop("status", None)
    try:
        schema.conform(PODS, pod)
    except ApiError as error:
        raise BadManifest(f"couldn't parse as pod: {error}") from None
    orjson.dumps(pod)  # what is too deep to be sent can have no mirror: TypeError
    defaults.apply_defaults(PODS, pod)
    causes = validation.validate_create(PODS, pod)
    if causes:
        raise BadManifest(f"invalid pod: {'; '.join(map(str, causes))}")
    wanted = [f"{kind} {other}" for kind, other in sorted(references(pod))]
    if spec.get("serviceAccountName"):
        wanted.append(f"ServiceAccount {spec['serviceAccountName']}")
    if any("persistentVolumeClaim" in volume for volume in spec.get("volumes") or ()):
        wanted.append("a PersistentVolumeClaim")
    if wanted:
        raise BadManifest(f"static pod {name} may not refer to objects of the API: {', '.join(wanted)}")
    priority = SYSTEM_PRIORITIES.get(spec.get("priorityClassName") or "")
    if priority is not None:
        spec["priority"] = priority
    return dict(pod)


def mirror_of(pod: Object, node: Object) -> Object:
    """The API object that shows a static pod. `node`: the Node as the API has it."""
    mirror = copy.deepcopy(pod)
    metadata = mirror["metadata"]
    del metadata["uid"]
    metadata["annotations"][MIRROR] = metadata["annotations"][HASH]
    owner = {"apiVersion": "v1", "kind": "Node", "name": node["metadata"]["name"], "controller": True}
    metadata["ownerReferences"] = [owner | {"uid": node["metadata"].get("uid", "")}]
    return mirror


def shows(mirror: Object, pod: Object) -> bool:
    """Whether a mirror is this pod's, and stays."""
    own = (mirror["metadata"].get("annotations") or {}).get(MIRROR)
    return own == pod["metadata"]["annotations"][HASH] and not pods.is_deleted(mirror)


def mirror_steps(static: Iterable[Object], mirrors: Iterable[Object]) -> tuple[list[Object], list[Object]]:
    """(mirrors to delete, pods whose mirror is missing). A wrong mirror goes first; its pod's comes the next time."""
    wanted = {full_name(pod): pod for pod in static}
    present = {full_name(mirror): mirror for mirror in mirrors}
    surplus = [mirror for name, mirror in present.items() if name not in wanted or not shows(mirror, wanted[name])]
    return surplus, [pod for name, pod in wanted.items() if name not in present and not pods.is_deleted(pod)]
