"""`make testbed`: hosts, and a shell to use them from. The shell's end is theirs, Ctrl-C and SIGKILL included.

The shell's `bed` command is this program again: it asks the one that made the hosts, over a socket among their files.
"""

import json
import os
import shlex
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import click

from tests.testbed import OUTSIDE, Testbed, containerd, ray
from tests.testbed.bed import CHECKOUT, HOSTS_MAX
from tests.testbed.cluster import HostCluster

SOCKET = "TESTBED_SOCKET"
RCFILE = """\
[ -r ~/.bashrc ] && . ~/.bashrc
bed() {
  local verb="${1:---help}"
  [ $# -gt 0 ] && shift
  # From here on all is the command's own: a "--" in it is not this program's.
  (cd "$TESTBED_CHECKOUT" && "$TESTBED_PYTHON" -m tests.testbed "$verb" -- "$@")
}
export -f bed
PS1='testbed:\\w\\$ '
"""
USAGE = """
{hosts}
They have no cluster software running yet; the checkout, its Python and kubectl are on each of them, read-only.

  bed up                       makes them a cluster: containerd, Ray and 'raykube up' (two minutes)
  bed kubectl get nodes        kubectl on the host named outside, in the checkout: apply -f examples/web.yaml
  bed raykube status           raykube on host1, the operator's machine
  bed on host1                 a shell on host1
  bed on host1 COMMAND …       a command on host1
  bed ssh outside host1        the same over ssh, from the host named outside
  bed cut host2                pulls host2's network cable; bed mend host2
  bed kill host3               cuts host3's power; bed boot host3 (with the same disk)
  exit                         removes everything
"""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path, bed: Testbed) -> None:
        self.bed = bed
        self.lock = threading.Lock()
        self.cluster: HostCluster | None = None
        super().__init__(str(path), _Handler)

    def up(self) -> None:
        """Makes the hosts a cluster, or starts what is missing of it. Raises AssertionError, BootError."""
        if self.cluster is None:
            machines = [host for name, host in self.bed.hosts.items() if name != OUTSIDE]
            click.echo("raykube: starting containerd on all hosts")
            containerd.install(*machines)
            click.echo("raykube: starting Ray on all hosts")
            ray.start(*machines)
            self.cluster = HostCluster(self.bed, 3 if len(machines) >= 3 else 1, ())
        click.echo("raykube: raykube up")
        self.cluster.up()


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        verb, names = json.loads(self.rfile.readline())
        answer: dict[str, object] = {}
        try:
            with self.server.lock:
                for name in names:
                    if name not in self.server.bed.hosts:
                        raise ValueError(f"there is no host {name}: {', '.join(self.server.bed.hosts)}")
                if verb == "on":
                    host = self.server.bed.hosts[names[0]]
                    answer = {"command": host.command([]), "environment": dict(host.environment)}
                elif verb == "up":
                    self.server.up()
                else:
                    getattr(self.server.bed, verb)(*names)
        except Exception as error:
            answer = {"error": str(error) or repr(error)}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def _ask(verb: str, *names: str) -> dict[str, object]:
    if SOCKET not in os.environ:
        raise click.ClickException("works in the shell of 'make testbed'")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[SOCKET])
        connection.sendall(json.dumps([verb, names]).encode() + b"\n")
        answer: dict[str, object] = json.loads(connection.makefile().readline())
    if "error" in answer:
        raise click.ClickException(str(answer["error"]))
    return answer


@click.group(invoke_without_command=True)
@click.option("--hosts", type=click.IntRange(1, HOSTS_MAX), default=4, show_default=True, help="how many")
@click.pass_context
def main(context: click.Context, hosts: int) -> None:
    """Hosts made of namespaces, and a shell to use them from."""
    if context.invoked_subcommand is None:
        serve(hosts)


def serve(hosts: int) -> None:
    """Makes hosts, runs a shell, removes the hosts."""
    if os.geteuid() != 0:
        raise click.ClickException("needs root: hosts are made of namespaces")
    click.echo(f"raykube: booting {hosts} hosts")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with Testbed(hosts=hosts) as bed:
        path, rcfile = bed.folder / "control", bed.folder / "bashrc"
        rcfile.write_text(RCFILE)
        with _Server(path, bed) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            listed = "\n".join(f"  {name:10} {address}" for name, address in bed.addresses.items())
            click.echo(USAGE.format(hosts=listed))
            variables = {SOCKET: str(path), "TESTBED_CHECKOUT": str(CHECKOUT), "TESTBED_PYTHON": sys.executable}
            shell = subprocess.Popen(["bash", "--rcfile", str(rcfile), "-i"], env=os.environ | variables)
            _wait(shell)
            server.shutdown()
    click.echo("raykube: everything is removed")


def _wait(shell: "subprocess.Popen[bytes]") -> None:
    """A Ctrl-C at the terminal is the shell's, as long as there is one."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            shell.wait()
        finally:
            signal.signal(signal.SIGINT, before)
    except KeyboardInterrupt:
        shell.kill()
        shell.wait()


def _enter(host: str, command: tuple[str, ...]) -> None:
    answer = _ask("on", host)
    words, environment = answer["command"], answer["environment"]
    assert isinstance(words, list)
    assert isinstance(environment, dict)
    os.execvpe(words[0], [*words, *(command or ("bash", "--login"))], environment | _terminal())


def _terminal() -> dict[str, str]:
    return {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}


ANY = {"ignore_unknown_options": True}


@main.command(context_settings=ANY)
@click.argument("host")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def on(host: str, command: tuple[str, ...]) -> None:
    """Run a command, or a shell, on a host."""
    _enter(host, command)


@main.command(context_settings=ANY)
@click.argument("source")
@click.argument("target")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(source: str, target: str, command: tuple[str, ...]) -> None:
    """The same on TARGET, over ssh from SOURCE."""
    _enter(source, ("ssh", target, *command))


@main.command(context_settings=ANY)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def kubectl(command: tuple[str, ...]) -> None:
    """Run kubectl as the cluster's administrator, on the host named outside."""
    _enter(OUTSIDE, ("sh", "-c", f'cd {shlex.quote(str(CHECKOUT))} && exec kubectl "$@"', "kubectl", *command))


@main.command(context_settings=ANY)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def raykube(command: tuple[str, ...]) -> None:
    """Run raykube on host1, the operator's machine."""
    _enter("host1", ("raykube", *command))


@main.command()
def up() -> None:
    """Make the hosts a cluster, or start what is missing of it."""
    _ask("up")


def _verb(name: str, what: str) -> None:
    @main.command(name, help=what)
    @click.argument("hosts", nargs=-1, required=True)
    def _(hosts: tuple[str, ...]) -> None:
        _ask(name, *hosts)


_verb("cut", "Pull hosts' network cables.")
_verb("mend", "Plug hosts' network cables in again.")
_verb("kill", "Cut hosts' power.")
_verb("boot", "Switch hosts on again.")

if __name__ == "__main__":
    main()
