"""One store and one apiserver as real processes for all tests of real clients; a namespace for each test."""

import itertools
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.controlplane import ControlPlane
from tests.kit.require import require_program


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    require_program("kubectl")
    with ControlPlane(tmp_path_factory.mktemp("plane")) as running:
        running.start("kv", "apiserver")
        yield running


@dataclass
class Kubectl:
    """kubectl in one namespace."""

    plane: ControlPlane
    namespace: str
    folder: Path

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return self.plane.kubectl_run("-n", self.namespace, *arguments, stdin=stdin)

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """What a command that must succeed prints."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def fails(self, *arguments: str, stdin: str | None = None) -> str:
        """What a command that must fail with exit code 1 prints on stderr."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 1, f"kubectl {' '.join(arguments)}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stderr

    def rows(self, *arguments: str) -> list[list[str]]:
        """The cells of a table, headings first."""
        return [line.split() for line in self(*arguments).splitlines()]

    def file(self, name: str, text: str) -> str:
        """A manifest on disk."""
        path = self.folder / name
        path.write_text(text)
        return str(path)


_numbers = itertools.count(1)


@pytest.fixture
def kubectl(plane: ControlPlane, tmp_path: Path) -> Kubectl:
    namespace = f"t{next(_numbers)}"
    plane.kubectl("create", "namespace", namespace)
    # No controllers run here: the account that every pod wants is made by hand.
    plane.kubectl("-n", namespace, "create", "serviceaccount", "default")
    return Kubectl(plane, namespace, tmp_path)
