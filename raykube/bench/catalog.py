"""The scenarios and tables that there are: files in scenarios/ and tables/, or any files of that form."""

from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from raykube.bench.core.scenario import Scenario
from raykube.bench.core.table import Table

_HERE = Path(__file__).parent
SCENARIOS, TABLES = _HERE / "scenarios", _HERE / "tables"
Model = TypeVar("Model", bound=BaseModel)


def names(folder: Path = SCENARIOS) -> list[str]:
    """What is built in, in order of the names."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load(name: str) -> Scenario:
    """The scenario so named, or in the file of that path. Raises ValueError with a line for the user."""
    return _load(Scenario, "scenario", SCENARIOS, name)


def load_table(name: str) -> Table:
    """The table so named, or in the file of that path. Raises ValueError with a line for the user."""
    return _load(Table, "table", TABLES, name)


def _load(model: type[Model], kind: str, folder: Path, name: str) -> Model:
    path = folder / f"{name}.yaml"
    if name not in names(folder):
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise ValueError(f"there is no {kind} {name!r}; there are {', '.join(names(folder))}, and files NAME.yaml")
    try:
        document = yaml.safe_load(path.read_text())
        return model.model_validate(document).model_copy(update={"name": path.stem})
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise ValueError(
            f"{path}: {place}: {problem['msg'].removeprefix('Value error, ')}".replace(": : ", ": ")
        ) from None
