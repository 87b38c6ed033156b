"""Flags out of a Config, in the forms that upstream's programs take."""

from typing import Any

import click
import pytest
from pydantic import BaseModel, ConfigDict, Field

from raykube.cli import flags


class Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: str = Field(description="where data lies")
    secure_port: int = Field(6443, description="port")
    leader_elect: bool = Field(True, description="elect")
    etcd_servers: list[str] = Field(default_factory=list, description="servers")
    capacity: dict[str, str] = Field(default_factory=dict, description="capacity")
    ca_file: str | None = Field(None, description="CA")


def parse(*arguments: str) -> BaseModel:
    found: list[BaseModel] = []

    def callback(**given: Any) -> None:
        found.append(flags.config_from(Config, given))

    command = click.Command("c", params=list(flags.options_of(Config)), callback=callback)
    command.main(list(arguments), standalone_mode=False)
    return found[0]


def test_defaults_stay() -> None:
    assert parse("--data-dir", "/d") == Config(data_dir="/d")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [(["--leader-elect"], True), (["--leader-elect=false"], False), (["--leader-elect=true"], True)],
)
def test_booleans_as_go_writes_them(arguments: list[str], expected: bool) -> None:
    assert parse(*arguments, "--data-dir=/d") == Config(data_dir="/d", leader_elect=expected)


def test_lists_by_comma_and_by_repetition() -> None:
    assert parse("--data-dir=/d", "--etcd-servers=a,b", "--etcd-servers", "c") == Config(
        data_dir="/d", etcd_servers=["a", "b", "c"]
    )


@pytest.mark.parametrize("arguments", [["--secure-port=-1"], ["--secure-port", "-1"]])
def test_negative_numbers(arguments: list[str]) -> None:
    assert parse("--data-dir=/d", *arguments) == Config(data_dir="/d", secure_port=-1)


def test_maps_by_comma() -> None:
    assert parse("--data-dir=/d", "--capacity=cpu=2,memory=4Gi") == Config(
        data_dir="/d", capacity={"cpu": "2", "memory": "4Gi"}
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "--data-dir: is required"), (["--data-dir=/d", "--secure-port=x"], "--secure-port: ")],
)
def test_what_the_config_refuses_is_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(*arguments)
    assert caught.value.format_message().startswith(message)
    assert "\n" not in caught.value.format_message()
