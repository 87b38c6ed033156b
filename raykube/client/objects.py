"""`Object`: a light, typed view of what the API returned, for people. Missing fields are empty, never errors."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Object:
    """One Kubernetes object; `raw` is all of it, as JSON has it."""

    raw: dict[str, Any]

    @property
    def kind(self) -> str:
        return str(self.raw.get("kind") or "")

    @property
    def api_version(self) -> str:
        return str(self.raw.get("apiVersion") or "")

    @property
    def metadata(self) -> dict[str, Any]:
        return self.raw.get("metadata") or {}

    @property
    def name(self) -> str:
        return str(self.metadata.get("name") or "")

    @property
    def namespace(self) -> str:
        return str(self.metadata.get("namespace") or "")

    @property
    def uid(self) -> str:
        return str(self.metadata.get("uid") or "")

    @property
    def resource_version(self) -> int:
        return int(self.metadata.get("resourceVersion") or 0)

    @property
    def labels(self) -> Mapping[str, str]:
        return self.metadata.get("labels") or {}

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.metadata.get("annotations") or {}

    @property
    def spec(self) -> dict[str, Any]:
        return self.raw.get("spec") or {}

    @property
    def status(self) -> dict[str, Any]:
        return self.raw.get("status") or {}

    @property
    def phase(self) -> str:
        return str(self.status.get("phase") or "")

    def condition(self, kind: str) -> dict[str, Any]:
        """The condition of this type; empty when there is none."""
        return next((c for c in self.status.get("conditions") or () if c.get("type") == kind), {})

    def get(self, path: str, default: Any = None) -> Any:
        """A field by its path: `spec.containers.0.image`; `default` when any part is missing."""
        value: Any = self.raw
        for part in path.split("."):
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
                value = value[int(part)]
            else:
                return default
        return default if value is None else value

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


class Change(NamedTuple):
    """One event of a watch: `type` is ADDED, MODIFIED or DELETED."""

    type: str
    object: Object
