"""Asks machines over ssh, all at once."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raykube.cluster.doctor import probe
from raykube.cluster.doctor.checks import Answers

TIMEOUT_S = 30.0
AT_ONCE_MAX = 16
HERE = "this machine"
# As Ray runs its commands there: what a login shell finds is what counts.
REMOTE = "exec bash --login -c -i 'exec python3 - {data_dir}'"


@dataclass(frozen=True, slots=True)
class Login:
    """How to reach machines over ssh."""

    user: str = ""
    key: str = ""

    def at(self, host: str) -> str:
        return f"{self.user}@{host}" if self.user else host

    def command(self, host: str) -> list[str]:
        key = ["-i", str(Path(self.key).expanduser())] if self.key else []
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={int(TIMEOUT_S) // 2}"]
        return ["ssh", *options, *key, self.at(host)]


def cluster_file(path: Path) -> tuple[list[str], Login]:
    """The machines of a cluster file for `ray up` with `provider: type: local`. Raises ValueError."""
    try:
        config = yaml.safe_load(path.read_text())
        provider = config["provider"]
        hosts = [provider["head_ip"], *provider["worker_ips"]]
        auth = config.get("auth") or {}
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise ValueError(f"{path} names no machines: it needs provider.head_ip and provider.worker_ips") from None
    return hosts, Login(str(auth.get("ssh_user", "")), str(auth.get("ssh_private_key", "")))


def ask(host: str, login: Login, data_dir: str) -> Answers | str:
    """A machine's answers, or why there are none."""
    script = Path(probe.__file__).read_bytes()
    command = (
        [sys.executable, "-", data_dir] if host == HERE else [*login.command(host), REMOTE.format(data_dir=data_dir)]
    )
    began, asked_at = time.monotonic(), time.time()
    try:
        done = subprocess.run(command, input=script, capture_output=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT_S:.0f} s"
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    took_s = time.monotonic() - began
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith(probe.MARK):
            try:
                said: dict[str, Any] = json.loads(line.removeprefix(probe.MARK))
                # Somewhere in the time that it took, the clock there was read.
                ahead_s = said.pop("time") - (asked_at + took_s / 2)
                return Answers.model_validate(said | {"ahead_s": ahead_s, "uncertain_s": took_s / 2})
            except (ValueError, KeyError, ValidationError) as error:
                return f"what it says makes no sense: {error}"
    return done.stderr.decode(errors="replace") or f"exit code {done.returncode}"


def ask_all(
    hosts: Iterable[str], login: Login, data_dir: str, on_answer: Callable[[str], None]
) -> dict[str, Answers | str]:
    """The answers of all machines, in their order; `on_answer` is told of each as it comes."""
    names = list(dict.fromkeys(hosts))
    found: dict[str, Answers | str] = {}
    with ThreadPoolExecutor(AT_ONCE_MAX) as pool:
        asked = {pool.submit(ask, name, login, data_dir): name for name in names}
        for future in as_completed(asked):
            found[asked[future]] = future.result()
            on_answer(asked[future])
    return {name: found[name] for name in names}
