"""`raykube up` with no options: the time until it is ready, and the memory of all its processes.

Memory is the sum of the processes' proportional set sizes (a page that n processes share counts 1/n for each), beside
the sum of their resident sets, which counts shared pages again for each.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raykube.cluster import processes, state

NAME = "bench-up"


def _memory_kib(pid: int) -> tuple[int, int]:
    """(PSS, RSS) of a process."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        fields[name] = int(value.split()[0])
    return fields["Pss"], fields["Rss"]


def _title(pid: int) -> str:
    words = [word for word in Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") if word]
    program = Path(words[0]).name
    script = next((Path(word).name for word in words[1:] if word.endswith(".py")), "")
    return script or program


def main() -> None:
    """Brings a cluster up, measures, takes it down."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="raykube-bench-") as folder:
        common = ["--name", NAME, "--data-dir", f"{folder}/data", "--kubeconfig", f"{folder}/kubeconfig"]
        raykube = [sys.executable, "-m", "raykube"]
        began = time.monotonic()
        try:
            subprocess.run([*raykube, "up", *common], check=True)
            seconds = time.monotonic() - began
            cluster = state.load(Path(folder) / "data")
            assert cluster is not None
            table = Table("PROCESS", "PID", "PSS MIB", "RSS MIB", box=None)
            total_pss = total_rss = 0
            for process in sorted(processes.find(cluster.id), key=lambda found: found.pid):
                pss, rss = _memory_kib(process.pid)
                total_pss, total_rss = total_pss + pss, total_rss + rss
                table.add_row(_title(process.pid), str(process.pid), str(pss // 1024), str(rss // 1024))
            table.add_row("all together", "", str(total_pss // 1024), str(total_rss // 1024))
            console.print(table)
            console.print(f"ready after {seconds:.1f} s; {total_pss / 1024:.0f} MiB together")
        finally:
            subprocess.run([*raykube, "down", *common], check=False)


if __name__ == "__main__":
    main()
