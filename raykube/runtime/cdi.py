"""Reads the spec files of the Container Device Interface."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

log = logging.getLogger(__name__)


def read(directories: Iterable[Path]) -> list[dict[str, Any]]:
    """All specs, those of later directories last; a file that cannot be read is logged and left out."""
    found = []
    for directory in directories:
        for path in sorted(directory.glob("*")):
            if path.suffix not in (".json", ".yaml"):
                continue
            try:
                text = path.read_text()
                spec = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
            except (OSError, ValueError, yaml.YAMLError) as error:
                log.warning("%s is no spec of devices: %s", path, error)
                continue
            if isinstance(spec, dict):
                found.append(spec)
    return found
