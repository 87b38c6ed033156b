"""The ConfigMaps, Secrets and files of variables that a pod refers to, as they were fetched."""

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.envfile import value_in
from raykube.kubelet.core.pod import Object

Kind = Literal["ConfigMap", "Secret"]
Reference = tuple[Kind, str]


class SourceMissing(Exception):
    """An object or a key that a pod needs does not exist; the message is Kubernetes'."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Objects of one namespace by (kind, name), files by (volume, path); None where there is no such thing."""

    namespace: str
    objects: dict[Reference, Object | None] = field(default_factory=dict)
    files: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def data(self, kind: Kind, name: str, optional: bool = False) -> dict[str, bytes] | None:
        """Every key with its bytes; None when the object is missing and that is allowed. Raises SourceMissing."""
        obj = self.objects.get((kind, name))
        if obj is None:
            if optional:
                return None
            raise SourceMissing(f'{kind.lower()} "{name}" not found')
        if kind == "Secret":
            return {key: base64.b64decode(text) for key, text in (obj.get("data") or {}).items()}
        data = {key: str(text).encode() for key, text in (obj.get("data") or {}).items()}
        return data | {key: base64.b64decode(text) for key, text in (obj.get("binaryData") or {}).items()}

    def value(self, kind: Kind, name: str, key: str, optional: bool = False) -> bytes | None:
        """One key's bytes; None when it is missing and that is allowed. Raises SourceMissing."""
        data = self.data(kind, name, optional)
        if data is None:
            return None
        if key not in data:
            if optional:
                return None
            raise SourceMissing(f"couldn't find key {key} in {kind} {self.namespace}/{name}")
        return data[key]

    def variable(self, volume: str, path: str, key: str, optional: bool = False) -> str | None:
        """A variable out of a file; None when it is missing and that is allowed. Raises SourceMissing, ValueError."""
        text = self.files.get((volume, path))
        try:
            value = None if text is None else value_in(text, key)
        except ValueError as error:
            raise ValueError(f"couldn't parse env file: {error}") from None
        if value is None and not optional:
            raise SourceMissing(f'environment variable key "{key}" not found in file "{path}"')
        return value


def joined(namespace: str, parts: Iterable[Sources | BaseException]) -> Sources:
    """One out of several; raises the first that could not be read."""
    objects: dict[Reference, Object | None] = {}
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        objects |= part.objects
    return Sources(namespace, objects)


def references_of(volume: Object) -> set[Reference]:
    found: set[Reference] = set()
    if "configMap" in volume:
        found.add(("ConfigMap", volume["configMap"]["name"]))
    if "secret" in volume:
        found.add(("Secret", volume["secret"]["secretName"]))
    for source in (volume.get("projected") or {}).get("sources") or ():
        if "configMap" in source:
            found.add(("ConfigMap", source["configMap"]["name"]))
        if "secret" in source:
            found.add(("Secret", source["secret"]["name"]))
    return found


def volume_references(pod: Object) -> set[Reference]:
    return {found for volume in pod["spec"].get("volumes") or () for found in references_of(volume)}


def environment_references(pod: Object) -> set[Reference]:
    found: set[Reference] = set()
    for spec in (*pods.all_containers(pod), *pods.ephemeral_containers(pod)):
        for variable in spec.get("env") or ():
            source = variable.get("valueFrom") or {}
            if "configMapKeyRef" in source:
                found.add(("ConfigMap", source["configMapKeyRef"]["name"]))
            if "secretKeyRef" in source:
                found.add(("Secret", source["secretKeyRef"]["name"]))
        for source in spec.get("envFrom") or ():
            if "configMapRef" in source:
                found.add(("ConfigMap", source["configMapRef"]["name"]))
            if "secretRef" in source:
                found.add(("Secret", source["secretRef"]["name"]))
    return found


def references(pod: Object) -> set[Reference]:
    return volume_references(pod) | environment_references(pod)
