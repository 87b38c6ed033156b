"""Real programs that tests talk to. A missing one is a skip with its reason on a laptop and a failure in CI."""

import os
import shutil
from typing import NoReturn

import pytest


def require_program(name: str) -> str:
    """The path of `name`; without it, skips the test, or fails it where the environment has CI=true."""
    path = shutil.which(name)
    if path is None:
        missing(f"needs the program {name}, which is not in PATH")
    return path


def missing(reason: str) -> NoReturn:
    """A real part is not here: skips the test on a laptop, fails it where the environment has CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
