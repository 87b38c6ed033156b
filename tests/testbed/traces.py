"""What a testbed leaves on the machine: looked for by what it is made of, not in its own records."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import Testbed, record

SPACES = ("net", "mnt", "uts", "ipc", "pid", "cgroup")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""  # it ended meanwhile


def _namespaces(process: Path) -> set[str]:
    found = set()
    for space in SPACES:
        try:
            found.add(os.readlink(process / "ns" / space))
        except OSError:
            continue
    return found


def _processes() -> list[Path]:
    return [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]


@dataclass(frozen=True)
class Traces:
    """What to look for, taken while the testbed runs: kernels number namespaces again, so processes tell of them."""

    name: str
    folder: Path
    processes: frozenset[tuple[int, int]]

    def left(self) -> list[str]:
        """What is still there, in words."""
        found = [
            f"process {pid}: {_read(Path(f'/proc/{pid}/cmdline'))}"
            for pid, start in self.processes
            if record.alive((pid, start))
        ]
        viewers = [process.name for process in _processes() if self.name in _read(process / "mountinfo")]
        found += [f"process {process} has mounts of it" for process in viewers]
        found += [f"control group {group}" for group, _, _ in os.walk("/sys/fs/cgroup") if self.name in group]
        if self.folder.exists():
            found.append(f"folder {self.folder}")
        if (record.RECORDS / f"{self.name}.json").exists():
            found.append("its record")
        return found


def traces(bed: Testbed) -> Traces:
    """Of a testbed of this process."""
    return traces_of(record.load(record.RECORDS / f"{bed.name}.json"))


def traces_of(written: record.Record) -> Traces:
    """Every process that is in a namespace which a process of the record made."""
    assert written.keeper is not None
    pids = [written.keeper[0], *(pid for pid, _ in written.processes)]
    made = set().union(*(_namespaces(Path(f"/proc/{pid}")) for pid in pids)) - _namespaces(Path("/proc/self"))
    inside = [record.identity(int(process.name)) for process in _processes() if _namespaces(process) & made]
    return Traces(written.name, Path(written.folder), frozenset(each for each in inside if each))
