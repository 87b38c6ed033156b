"""What `raykube plan` is given, and what it answers to what is no manifest."""

import sys
from io import StringIO
from pathlib import Path

import pytest

from raykube.cli.plan import _load


@pytest.mark.parametrize("text", ["", "\n", "---\n", "# nothing\n"])
def test_an_input_without_objects_is_told(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO(text))
    with pytest.raises(ValueError, match=r"^no objects passed to plan$"):
        _load(("-",), "default")
    (tmp_path / "empty.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"^no objects passed to plan$"):
        _load((str(tmp_path / "empty.yaml"),), "default")


def test_an_input_of_one_line_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("app.yaml\n"))
    with pytest.raises(ValueError, match=r"the text holds 'app\.yaml', which is no Kubernetes object"):
        _load(("-",), "default")


def test_a_path_that_does_not_exist_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r'^the path "nosuch\.yaml" does not exist$'):
        _load(("nosuch.yaml",), "default")


def test_without_a_manifest_there_are_no_objects() -> None:
    assert _load((), "default") == []
