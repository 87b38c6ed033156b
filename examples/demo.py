"""What raykube does, on this computer, in a few minutes: three machines, a workload, and three kinds of disaster.

Every step checks what it claims; the first thing that is not true ends the demo with exit code 1. Whatever happens,
the cluster is taken down and its data removed.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import raykube
from raykube.cluster import processes, state

HERE = Path(__file__).parent
NAME = "demo"
MACHINES = 3
REPLICAS = 3
PAGE = "Served by raykube"
# Upstream waits 50 s for a silent machine and 300 s more for its pods; a demo has less patience.
IMPATIENT = [
    "controller-manager.node-monitor-grace-period=8s",
    "controller-manager.node-monitor-period=1s",
    "kubelet.node-status-update-frequency=2s",
    "kubelet.node-lease-duration-seconds=8",
    "apiserver.default-not-ready-toleration-seconds=2",
    "apiserver.default-unreachable-toleration-seconds=2",
]
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class NotTrue(Exception):
    """Something the demo claims did not happen."""


class Demo:
    """The running demo: its cluster, its client, and what it has seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.kubeconfig = folder / "kubeconfig"
        self.rows: list[tuple[str, str, float]] = []

    def raykube(self, *arguments: str, check: bool = True, quiet: bool = False) -> str:
        """Runs a raykube command as a user would; its output is shown unless `quiet`."""
        command = [sys.executable, "-m", "raykube", *arguments, "--name", NAME, "--data-dir", str(self.data_dir)]
        if arguments[0] in ("up", "down"):
            command += ["--kubeconfig", str(self.kubeconfig)]
        if not quiet:
            console.print(f"[dim]$ raykube {shlex.join(arguments)}[/]")
        # A session of its own: a Ctrl-C at the terminal is for this program, which then takes everything down.
        done = subprocess.run(
            command, stdout=subprocess.PIPE if quiet else None, text=True, check=False, start_new_session=quiet
        )
        if check and done.returncode != 0:
            raise NotTrue(f"raykube {arguments[0]} ended with exit code {done.returncode}")
        return done.stdout or ""

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.raykube("status", "-o", "json", check=False, quiet=True))
        return document

    def cluster(self) -> state.ClusterState:
        found = state.load(self.data_dir)
        if found is None:
            raise NotTrue("the cluster has no state file")
        return found

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Times a step; the list takes what the table shall say."""
        console.print(f"\n[bold]{what}[/]")
        began = time.monotonic()
        said: list[str] = []
        yield said
        seconds = time.monotonic() - began
        self.rows.append((what, "; ".join(said), seconds))
        console.print(f" [green]✓[/] {'; '.join(said)}  [dim]{seconds:.1f} s[/]")


def until(what: str, timeout_s: float, check: Callable[[], bool]) -> None:
    """Polls `check` until it is true. Raises NotTrue at the time-out."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if check():
            return
        time.sleep(0.1)
    raise NotTrue(f"{what}: not within {timeout_s:.0f} s")


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        return str(response.read().decode())


def fetch_page(url: str) -> None:
    """Fetches the page, giving a proxy that has just lost a backend a moment. Raises NotTrue."""

    def served() -> bool:
        try:
            return PAGE in fetch(url)
        except OSError:
            return False

    until(f"the page at {url}", 20, served)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def web_pods(client: raykube.Client) -> list[dict[str, Any]]:
    return [pod.raw for pod in client.list("pods", label_selector="app=web")]


def page_urls(demo: Demo, client: raykube.Client, without: str = "") -> list[str]:
    service = client.get("service", "web").raw
    urls = [f"http://{service['spec']['clusterIP']}:8080/"]
    machines = [machine for machine in demo.cluster().machines if machine.name != without]
    return urls + [f"http://{machine.address}:{service['spec']['ports'][0]['nodePort']}/" for machine in machines]


def apply_workload(demo: Demo, client: raykube.Client) -> None:
    with demo.step("Apply examples/web.yaml with the Python client") as said:
        applied = client.apply(HERE / "web.yaml")
        client.wait("deployment/web", "Available", timeout=60)
        client.wait("job/sums", "Complete", timeout=60)
        succeeded = client.get("job", "sums").raw["status"]["succeeded"]
        if succeeded != 5:
            raise NotTrue(f"the Job has {succeeded} completions, not 5")
        said.append(f"{len(applied)} objects; {REPLICAS} replicas available; Job complete, 5 of 5")


def fetch_everywhere(demo: Demo, client: raykube.Client) -> None:
    with demo.step("Fetch the page through the ClusterIP and a NodePort on each machine") as said:
        urls = page_urls(demo, client)
        for url in urls:
            fetch_page(url)
        said.append(", ".join(url.removeprefix("http://").rstrip("/") for url in urls))


def kill_pod_process(demo: Demo, client: raykube.Client) -> None:
    with demo.step("Kill a pod's process with SIGKILL") as said:
        victim = web_pods(client)[0]
        name, ip = victim["metadata"]["name"], victim["status"]["podIP"]
        cluster_id = demo.cluster().id
        # The server itself, not its shim: the process whose command line begins with the pod's command.
        pids = [process.pid for process in processes.find(cluster_id) if serves(process.pid, ip)]
        if len(pids) != 1:
            raise NotTrue(f"pod {name} has {len(pids)} server processes, not 1")
        os.kill(pids[0], signal.SIGKILL)

        def healed() -> bool:
            pod = client.get("pod", name).raw
            return bool(pod["status"]["containerStatuses"][0]["restartCount"] == 1 and is_ready(pod))

        until(f"{name} restarted and ready", 40, healed)
        said.append(f"pid {pids[0]} of {name} killed; restarted in place and ready again")


def serves(pid: int, ip: str) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"http.server" in command[:4] and ip.encode() in command


def kill_store_leader(demo: Demo, client: raykube.Client) -> None:
    with demo.step("Kill the store's leader with SIGKILL while writing") as said:
        before = {pod["metadata"]["uid"] for pod in web_pods(client)}
        leader = next(
            row for row in demo.status()["components"] if row["component"] == "kv" and row["role"] == "leader"
        )
        acknowledged: list[str] = []
        unsure = 0
        stop = threading.Event()

        def write() -> None:
            nonlocal unsure
            number = 0
            while not stop.is_set():
                number += 1
                name = f"written-{number}"
                body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}}
                try:
                    client.create_many([body])
                    acknowledged.append(name)
                except Exception:
                    unsure += 1  # not acknowledged: it may or may not be there, and nobody was told that it is

        writer = threading.Thread(target=write)
        writer.start()
        try:
            until("writes before", 20, lambda: len(acknowledged) >= 20)
            at_kill = len(acknowledged)
            os.kill(leader["pid"], signal.SIGKILL)
            began = time.monotonic()
            until("writes go on", 30, lambda: len(acknowledged) >= at_kill + 20)
            resumed = time.monotonic() - began
        finally:
            stop.set()
            writer.join()
        present = {item.name for item in client.list("configmaps", namespace="default")}
        lost = [name for name in acknowledged if name not in present]
        if lost:
            raise NotTrue(f"{len(lost)} acknowledged writes are lost, {lost[0]} first")
        if {pod["metadata"]["uid"] for pod in web_pods(client)} != before:
            raise NotTrue("pods were replaced although only the store lost its leader")
        until("the dead member is back", 40, lambda: bool(demo.status()["failures_tolerated"] == 1))
        said.append(
            f"leader on {leader['machine']} killed; 20 more writes in {resumed:.1f} s;"
            f" {len(acknowledged)} acknowledged, 0 lost, {unsure} refused; the member came back"
        )


def kill_machine(demo: Demo, client: raykube.Client) -> None:
    with demo.step("Kill a whole machine") as said:
        cluster = demo.cluster()
        on = [pod["spec"]["nodeName"] for pod in web_pods(client)]
        # Not the one with Ray's head: that is the README's next chapter, not a demo's.
        victim = next(machine for machine in cluster.machines[1:] if machine.name in on)
        ended = processes.end(cluster.id, victim.name, grace_s=0)

        def replaced() -> bool:
            pods = web_pods(client)
            return sum(is_ready(pod) and pod["spec"]["nodeName"] != victim.name for pod in pods) == REPLICAS

        until(f"{REPLICAS} ready pods on the other machines", 90, replaced)
        for url in page_urls(demo, client, without=victim.name):
            fetch_page(url)
        said.append(f"{victim.name}: {ended} processes gone at once; its pods run elsewhere and the page is served")


def show(demo: Demo) -> None:
    table = Table(title="What this demo did", title_justify="left", box=None, header_style="bold")
    for column in ("STEP", "RESULT"):
        table.add_column(column, overflow="fold")
    table.add_column("TIME", justify="right")
    for what, said, seconds in demo.rows:
        table.add_row(what, said, f"{seconds:.1f} s")
    console.print()
    console.print(table)


def run(demo: Demo) -> None:
    with demo.step(f"Bring up {MACHINES} machines") as said:
        flags = [part for item in IMPATIENT for part in ("--extra-config", item)]
        demo.raykube("up", "--machines", str(MACHINES), "--control-plane", str(MACHINES), *flags)
        said.append("three store members, three apiservers, standby schedulers and controller-managers")
    with raykube.Client(kubeconfig=demo.kubeconfig) as client:
        apply_workload(demo, client)
        fetch_everywhere(demo, client)
        kill_pod_process(demo, client)
        kill_store_leader(demo, client)
        kill_machine(demo, client)


def interrupt(_number: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    signal.signal(signal.SIGTERM, interrupt)
    folder = Path(tempfile.mkdtemp(prefix="raykube-demo-"))
    demo = Demo(folder)
    code = 1
    try:
        run(demo)
        code = 0
    except NotTrue as error:
        console.print(f"\n[red]✗ not true:[/] {error}")
        console.print(f"  logs: {demo.data_dir}/machines/*/logs (kept)")
    except KeyboardInterrupt:
        console.print("\nInterrupted")
        code = 130
    finally:
        # A second Ctrl-C must not stop the cleaning.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        cluster = state.load(demo.data_dir) if demo.data_dir.exists() else None
        console.print("\n[bold]Take everything down[/]")
        demo.raykube("down", check=False)
        if cluster is not None and (left := list(processes.find(cluster.id))):
            console.print(f"[red]✗ not true:[/] {len(left)} processes are left")
            code = code or 1
        if code != 1:
            shutil.rmtree(folder, ignore_errors=True)
    if code == 0:
        show(demo)
    return code


if __name__ == "__main__":
    sys.exit(main())
