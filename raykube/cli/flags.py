"""Command-line flags out of a component's Config: a flag per field, in the form that upstream's programs take.

`--leader-elect`, `--leader-elect=false`, `--etcd-servers=a,b`, `--node-monitor-grace-period=40s` all work; a value that
the Config refuses is one line on stderr and exit code 2.
"""

import types
import typing
from typing import Any

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


def _is(annotation: Any, wanted: type) -> bool:
    """Whether `annotation` is `wanted`, `wanted | None`, or an Annotated form of either."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _is(typing.get_args(annotation)[0], wanted)
    if origin in (typing.Union, types.UnionType):
        return any(_is(argument, wanted) for argument in typing.get_args(annotation))
    return annotation is wanted or origin is wanted


def _also(field: FieldInfo) -> list[str]:
    """Other names of the field's flag: `json_schema_extra={"also": ["former-name"]}`."""
    extra = field.json_schema_extra
    names = extra.get("also", []) if isinstance(extra, dict) else []
    return [f"--{name}" for name in names if isinstance(name, str)] if isinstance(names, list) else []


_OPTIONAL_VALUE: dict[str, Any] = {"is_flag": False, "flag_value": "true"}


def options_of(config: type[BaseModel], kind: type[click.Option] = click.Option) -> list[click.Option]:
    """The options that `config`'s fields stand for, in the order of the fields."""
    options: list[click.Option] = []
    for name, field in config.model_fields.items():
        is_list = _is(field.annotation, list) or _is(field.annotation, tuple)
        is_bool = _is(field.annotation, bool)
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else str(default or "")
        if isinstance(default, bool | int | float):
            shown = str(default)
        help_text = field.description or ""
        if field.is_required():
            help_text = f"{help_text} (required)"
        elif shown and shown != "{}":
            help_text = f"{help_text} [default: {shown.lower() if is_bool else shown}]"
        options.append(
            kind(
                [f"--{name.replace('_', '-')}", *_also(field), name],
                multiple=is_list,
                metavar="BOOL" if is_bool else None,
                help=help_text,
                # Only where the value may be left out: click then takes --flag=-1 for two flags.
                **_OPTIONAL_VALUE if is_bool else {},
            )
        )
    return options


def config_from(config: type[BaseModel], given: dict[str, Any]) -> BaseModel:
    """A Config out of parsed options; flags that were not given keep their defaults. Raises click.UsageError."""
    values: dict[str, Any] = {}
    for name, field in config.model_fields.items():
        value = given.get(name)
        if value is None or value == () or (value == "" and field.default is None):
            continue  # as in Go's programs, an empty path is none
        if isinstance(value, tuple):
            value = [part for item in value for part in item.split(",") if part]
        elif _is(field.annotation, dict):
            pairs = [part.partition("=") for part in value.split(",") if part]
            value = {key: rest for key, _, rest in pairs}
        values[name] = value
    try:
        return config(**values)
    except ValidationError as error:
        raise click.UsageError(describe(error)) from None


def describe(error: ValidationError) -> str:
    """One line for a refused configuration."""
    problems = []
    for problem in error.errors():
        # A check of several fields has no place of its own, and its message names the flags.
        flag = f"--{problem['loc'][0]}: ".replace("_", "-") if problem["loc"] else ""
        message = problem["msg"].removeprefix("Value error, ")
        problems.append(flag + ("is required" if problem["type"] == "missing" else message))
    return "; ".join(problems)
