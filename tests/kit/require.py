"""Real programs that tests talk to. A missing one is a skip with its reason on a laptop and a failure in CI."""

import os
import shutil

import pytest


def require_program(name: str) -> str:
    """The path of `name`; without it, skips the test, or fails it where the environment has CI=true."""
    path = shutil.which(name)
    if path is not None:
        return path
    reason = f"needs the program {name}, which is not in PATH"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
