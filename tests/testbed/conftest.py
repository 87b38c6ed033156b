"""One testbed for the tests of a file, which leave it as they found it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import Testbed


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """Two hosts, and "outside"."""
    folder: Path = tmp_path_factory.mktemp("bed")
    with Testbed(hosts=2, folder=folder) as made:
        yield made
