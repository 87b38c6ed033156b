"""What `raykube up` may be asked for, and what it answers to the rest."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from raykube.cli.cluster import parse_extra_config
from raykube.cluster import settings
from raykube.cluster.settings import Settings


def wish(**changes: object) -> Settings:
    return Settings(**({"data_dir": Path("/d"), "kubeconfig": Path("/k")} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "A", "-a", "a-", "a_b", "a" * 41])
def test_a_name_that_no_label_could_hold_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="lower-case"):
        wish(name=name)


@pytest.mark.parametrize(("machines", "control_plane"), [(3, 2), (3, 4), (1, 3), (3, 0)])
def test_a_control_plane_without_a_quorum_is_refused(machines: int, control_plane: int) -> None:
    with pytest.raises(ValidationError, match="--control-plane"):
        wish(machines=machines, control_plane=control_plane)


@pytest.mark.parametrize("machines", [0, -1, 101])
def test_a_number_of_machines_out_of_range_is_refused(machines: int) -> None:
    with pytest.raises(ValidationError, match="must be 1 to 100"):
        wish(machines=machines)


def test_on_a_joined_ray_the_machines_are_rays() -> None:
    assert wish(address="10.0.0.1:6379", control_plane=3).control_plane == 3


def test_defaults_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYKUBE_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/x")
    monkeypatch.setenv("KUBECONFIG", ":/a/one:/b/two")
    assert settings.default_data_dir("n") == Path("/x/raykube/n")
    assert settings.default_kubeconfig() == Path("/a/one")
    monkeypatch.setenv("RAYKUBE_DATA_DIR", "/r")
    monkeypatch.delenv("KUBECONFIG")
    monkeypatch.setenv("HOME", "/home/u")
    assert settings.default_data_dir("n") == Path("/r/n")
    assert settings.default_kubeconfig() == Path("/home/u/.kube/config")


def test_extra_config_is_taken_apart() -> None:
    assert parse_extra_config(("apiserver.event-ttl=30m", "apiserver.a=b=c", "runtime.x=1")) == {
        "apiserver": {"event-ttl": "30m", "a": "b=c"},
        "runtime": {"x": "1"},
    }


@pytest.mark.parametrize("text", ["", "a", "a.b", "a=b", "nobody.flag=1", ".x=1"])
def test_malformed_extra_config_says_what_is_right(text: str) -> None:
    with pytest.raises(Exception, match="--extra-config") as caught:
        parse_extra_config((text,))
    assert type(caught.value).__name__ == "UsageError"
