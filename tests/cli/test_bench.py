"""What `raykube bench` says at its end."""

import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from raykube.cli.bench import _draw


def test_the_extra_that_brings_matplotlib_is_named_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    output = StringIO()
    _draw(Console(file=output, highlight=False), {}, Path("results[red]/one.json"))
    assert output.getvalue() == (
        "\nresults[red]/one.json; no picture: pip install 'raykube[bench]' brings matplotlib\n"
    )
