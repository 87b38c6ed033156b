"""Reads `--config`: a KubeSchedulerConfiguration. Its leader election holds where no flag says otherwise."""

from pydantic import ValidationError

from raykube.scheduler.config import Config
from raykube.scheduler.core.configuration import BadConfiguration, Settings, parse
from raykube.scheduler.core.profile import Profile


def load(config: Config) -> tuple[Config, Settings]:
    """The flags with the file in them, and the rest of the file. Raises ValueError that says what is wrong with it."""
    path = config.config
    if path is None:
        return config, Settings((Profile(config.scheduler_name),))
    try:
        settings = parse(path.read_bytes())
    except OSError as error:
        raise ValueError(f"--config: cannot read {path}: {error.strerror}") from None
    except BadConfiguration as error:
        raise ValueError(f"--config {path}: {error}") from None
    given = {name: getattr(config, name) for name in config.model_fields_set}
    try:
        return Config(**(settings.flags | given)), settings
    except ValidationError as error:
        problems = [problem["msg"].removeprefix("Value error, ") for problem in error.errors()]
        raise ValueError(f"--config {path}: {'; '.join(problems)}") from None
