"""The kubeconfig keeps everything that is not ours."""

import stat
from pathlib import Path

import pytest
import yaml

from raykube.cluster import kubeconfig
from raykube.cluster.pki import PemPair

PAIR = PemPair(b"cert", b"key")
OTHER = """\
apiVersion: v1
kind: Config
current-context: work
clusters:
- {name: work, cluster: {server: https://work:6443, extensions: [{name: x, extension: {a: 1}}]}}
contexts:
- {name: work, context: {cluster: work, user: me, namespace: team}}
users:
- {name: me, user: {exec: {command: login, apiVersion: client.authentication.k8s.io/v1, args: [a, b]}}}
preferences: {colors: true}
"""


def merge(path: Path, name: str = "demo", server: str = "https://127.0.0.1:6443") -> None:
    kubeconfig.merge(path, name, {"m": server}, b"ca", PAIR)


def test_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config"
    merge(path)
    config = yaml.safe_load(path.read_text())
    assert config["current-context"] == "raykube-demo"
    assert config["clusters"][0]["cluster"] == {
        "server": "https://127.0.0.1:6443",
        "certificate-authority-data": "Y2E=",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["config"]


def test_merge_then_remove_gives_the_others_back(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(OTHER)
    merge(path)
    merge(path, "two")
    merge(path, server="https://127.0.0.1:7443")
    config = yaml.safe_load(path.read_text())
    assert [item["name"] for item in config["contexts"]] == ["work", "raykube-demo", "raykube-two"]
    assert config["clusters"][1]["cluster"]["server"] == "https://127.0.0.1:7443"
    assert config["current-context"] == "raykube-demo"
    assert kubeconfig.remove(path, "demo")
    assert kubeconfig.remove(path, "two")
    assert not kubeconfig.remove(path, "two")
    expected = yaml.safe_load(OTHER)
    expected["current-context"] = ""
    assert yaml.safe_load(path.read_text()) == expected


def test_remove_leaves_another_current_context(tmp_path: Path) -> None:
    path = tmp_path / "config"
    merge(path)
    merge(path, "two")
    kubeconfig.remove(path, "demo")
    assert yaml.safe_load(path.read_text())["current-context"] == "raykube-two"
    assert not kubeconfig.remove(tmp_path / "none", "demo")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "kind: Pod\n", "clusters: 5\n", "users: [a]\n", "\x00"])
def test_what_is_no_kubeconfig_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    for act in (lambda: merge(path), lambda: kubeconfig.remove(path, "demo")):
        with pytest.raises(kubeconfig.KubeconfigError) as error:
            act()
        assert "\n" not in str(error.value)
        assert "--kubeconfig" in str(error.value)
    assert path.read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["config"]


def test_a_symlink_stays_one(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_text(OTHER)
    link = tmp_path / "config"
    link.symlink_to(real)
    merge(link)
    assert link.is_symlink()
    assert "raykube-demo" in real.read_text()


def test_the_first_of_the_list_is_the_target(tmp_path: Path) -> None:
    assert kubeconfig.target("/a/b:/c", tmp_path) == Path("/a/b")
    assert kubeconfig.target(":/c", tmp_path) == Path("/c")
    assert kubeconfig.target("", tmp_path) == tmp_path / ".kube" / "config"
    assert kubeconfig.target(None, tmp_path) == tmp_path / ".kube" / "config"


def test_a_lock_left_behind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubeconfig, "LOCK_WAIT_S", 0.1)
    path = tmp_path / "config"
    (tmp_path / "config.lock").touch()
    with pytest.raises(kubeconfig.KubeconfigError, match=r"config\.lock exists"):
        merge(path)


def test_each_router_has_a_context_and_those_that_went_have_none(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(OTHER)
    kubeconfig.merge(path, "demo", {"a": "https://a:1", "b": "https://b:1"}, b"ca", PAIR)
    kubeconfig.merge(path, "demo", {"b": "https://b:1", "c": "https://c:1"}, b"ca", PAIR)
    config = yaml.safe_load(path.read_text())
    servers = {item["name"]: item["cluster"]["server"] for item in config["clusters"] if item["name"] != "work"}
    assert servers == {
        "raykube-demo": "https://b:1",
        "raykube-demo@b": "https://b:1",
        "raykube-demo@c": "https://c:1",
    }
    assert {item["context"]["user"] for item in config["contexts"]} == {"me", "raykube-demo"}
    assert kubeconfig.remove(path, "demo")
    expected = yaml.safe_load(OTHER)
    expected["current-context"] = ""
    assert yaml.safe_load(path.read_text()) == expected
