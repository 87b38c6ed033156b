"""Reads `--config`: its fields hold where no flag says otherwise."""

import logging

from pydantic import ValidationError

from raykube.kubelet.config import Config
from raykube.kubelet.core.configfile import BadConfiguration, parse

log = logging.getLogger(__name__)


def merged(config: Config) -> Config:
    """The configuration with its file in it. Raises ValueError that names file and field."""
    path = config.config
    if path is None:
        return config
    try:
        values, unknown = parse(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--config: cannot read {path}: {error.strerror}") from None
    except BadConfiguration as error:
        raise ValueError(f"--config {path}: {error}") from None
    if unknown:
        log.warning("%s: fields without meaning here: %s", path, ", ".join(unknown))
    given = {name: getattr(config, name) for name in config.model_fields_set}
    try:
        return Config(**(values | given))
    except ValidationError as error:
        problems = [f"{problem['loc'][0] if problem['loc'] else ''}: {problem['msg']}" for problem in error.errors()]
        raise ValueError(f"--config {path}: {'; '.join(problems)}") from None
