"""What holds: what flags say; where they do not, the file of `--config`; where neither does, defaults."""

import logging
from typing import Any

from pydantic import ValidationError

from raykube.kubelet.config import Config
from raykube.kubelet.core.configfile import BadConfiguration, parse

# Instead of the defaults, with --shared-disk.
SHARED_DISK: dict[str, Any] = {"eviction_hard": "memory.available<100Mi", "image_gc_high_threshold": 100}

log = logging.getLogger(__name__)


def merged(config: Config) -> Config:
    """The configuration with its defaults and its file in it. Raises ValueError that names file and field."""
    defaults = SHARED_DISK if config.shared_disk else {}
    given = {name: getattr(config, name) for name in config.model_fields_set}
    path = config.config
    if path is None:
        return Config(**(defaults | given))
    try:
        values, unknown = parse(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--config: cannot read {path}: {error.strerror}") from None
    except BadConfiguration as error:
        raise ValueError(f"--config {path}: {error}") from None
    if unknown:
        log.warning("%s: fields without meaning here: %s", path, ", ".join(unknown))
    try:
        return Config(**(defaults | values | given))
    except ValidationError as error:
        problems = [f"{problem['loc'][0] if problem['loc'] else ''}: {problem['msg']}" for problem in error.errors()]
        raise ValueError(f"--config {path}: {'; '.join(problems)}") from None
