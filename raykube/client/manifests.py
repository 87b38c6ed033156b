"""Manifests as people have them: YAML or JSON text, files, folders, dicts, lists; as a flat list of objects."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
Manifest = str | Path | Object | Iterable[Any]

SUFFIXES = (".yaml", ".yml", ".json")
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where there is one: ten times faster


def load(manifest: Manifest) -> list[Object]:
    """The objects of a manifest, in order; `List` kinds are opened. A text without a line break is a path.

    Raises OSError for a file that cannot be read, ValueError for what is no object.
    """
    if isinstance(manifest, str):
        return load(Path(manifest)) if _is_path(manifest) else _parse(manifest, "the text")
    if isinstance(manifest, Path):
        if manifest.is_dir():
            files = sorted(path for path in manifest.iterdir() if path.suffix in SUFFIXES)
            if not files:
                raise ValueError(f"{manifest} has no {', '.join(SUFFIXES)} files")
            return [obj for path in files for obj in load(path)]
        return _parse(manifest.read_text(), str(manifest))
    if isinstance(manifest, dict):
        if str(manifest.get("kind", "")).endswith("List") and isinstance(manifest.get("items"), list):
            return [obj for item in manifest["items"] for obj in load(item)]
        for field in ("apiVersion", "kind"):
            if not manifest.get(field):
                raise ValueError(f"{field} is missing in {str(manifest)[:80]}")
        return [manifest]
    return [obj for item in manifest for obj in load(item)]


def _is_path(text: str) -> bool:
    stripped = text.strip()
    return bool(stripped) and "\n" not in text and not stripped.startswith(("{", "[")) and ": " not in stripped


def _parse(text: str, source: str) -> list[Object]:
    try:
        documents = [document for document in yaml.load_all(text, Loader=Loader) if document is not None]
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is not YAML: {error}") from None
    objects = []
    for document in documents:
        if not isinstance(document, (dict, list)):
            raise ValueError(f"{source} holds {document!r}, which is no Kubernetes object")
        objects += load(document)
    return objects
