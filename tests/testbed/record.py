"""What a testbed made on this machine, written down before it is made, so that whoever comes later can remove it.

A record names the tester, the processes (with their start times: pids are used again), the control groups and the
folder of one testbed. All that is removed is removed by these names.
"""

import fcntl
import json
import os
import shutil
import signal
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.testbed import cgroups

RECORDS = Path("/run/raykube-testbeds")
END_TIMEOUT_S = 15


@dataclass
class Record:
    name: str
    tester: tuple[int, int]
    folder: str = ""
    keeper: tuple[int, int] | None = None
    processes: list[tuple[int, int]] = field(default_factory=list)  # ending one ends its host
    groups: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return RECORDS / f"{self.name}.json"

    def save(self) -> None:
        """Replaces the file at once."""
        RECORDS.mkdir(mode=0o700, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(self.path)


def load(path: Path) -> Record:
    """Raises OSError or ValueError."""
    document = json.loads(path.read_text())
    pairs = {key: tuple(document[key]) for key in ("tester", "keeper") if document[key]}
    return Record(**(document | pairs | {"processes": [tuple(each) for each in document["processes"]]}))


def identity(pid: int) -> tuple[int, int] | None:
    """A process for ever: its pid and its start time; None if it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else (pid, int(fields[19]))


def alive(process: tuple[int, int] | None) -> bool:
    return process is not None and identity(process[0]) == process


def end(processes: list[tuple[int, int]]) -> None:
    """SIGKILL, and waits for their end. Raises OSError at the time-out."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while left := [process for process in processes if alive(process)]:
        if time.monotonic() > deadline:
            raise OSError(f"processes that do not end: {left}")
        for pid, _ in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.01)


def clean(record: Record) -> None:
    """Removes all that a record names, then the record."""
    end(record.processes)
    for group in record.groups:
        cgroups.remove(group)
    if record.folder and os.path.isdir(record.folder):
        shutil.rmtree(record.folder)
    record.path.unlink(missing_ok=True)


def sweep() -> list[str]:
    """Removes what testers left behind that were killed together with their keepers; returns the testbeds' names."""
    RECORDS.mkdir(mode=0o700, exist_ok=True)
    found = []
    with (RECORDS / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for path in sorted(RECORDS.iterdir()):
            try:
                record = load(path)
            except (OSError, ValueError):
                continue  # the lock; one that its own tester writes or removes
            if not alive(record.tester) and not alive(record.keeper):
                clean(record)
                found.append(record.name)
    return found
