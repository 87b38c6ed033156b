"""Ray without a token is used only by somebody who says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOKEN = ".ray/auth_token"
ADVICE = "openssl rand -hex 32 > ~/.ray/auth_token"


def raykube(home: Path, *arguments: str, mode: str = "") -> str:
    """What a command that fails says."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY")}
    environment |= {"HOME": str(home)} | ({"RAY_AUTH_MODE": mode} if mode else {})
    done = subprocess.run(
        [sys.executable, "-m", "raykube", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.integration
def test_up_on_a_ray_without_a_token_is_refused(tmp_path: Path) -> None:
    up = ("up", "--address", "127.0.0.1:1", "--ray-timeout", "0")
    assert ADVICE in raykube(tmp_path, *up)
    for arguments, mode in (((*up, "--insecure-ray"), ""), (up, "disabled")):
        assert "does not answer" in raykube(tmp_path, *arguments, mode=mode)
    (tmp_path / TOKEN).parent.mkdir()
    (tmp_path / TOKEN).write_text("secret")
    assert "does not answer" in raykube(tmp_path, *up)


@pytest.mark.integration
def test_a_machine_without_a_token_is_refused(tmp_path: Path) -> None:
    assert ADVICE in raykube(tmp_path, "machine", "--address", "127.0.0.1:1")
    assert ADVICE in raykube(tmp_path, "machine", "--head", "--auth-token-file", str(tmp_path / "token"))
