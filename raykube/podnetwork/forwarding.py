"""Lets pods' packets through a firewall that drops whatever is forwarded, as Docker's and ufw's do.

Only where the chain FORWARD of iptables drops by default, and at its end: what somebody refuses by a rule stays
refused. Our mark is the comment of the rules. NetworkPolicies are judged before, in a table of their own. All of it
blocks: call it in a thread.
"""

import logging
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from ipaddress import ip_network

log = logging.getLogger(__name__)

COMMENT = "raykube pod network"
SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
PROGRAMS = {4: "iptables", 6: "ip6tables"}
TIMEOUT_S = 30


def let_through(cidrs: Iterable[str]) -> None:
    """Appends what is missing for pods' networks. A firewall that cannot be asked is none of ours."""
    for cidr in cidrs:
        program = PROGRAMS[ip_network(cidr).version]
        listed = _run(program, "-S", "FORWARD")
        if listed is None or "-P FORWARD DROP" not in listed.splitlines():
            continue
        for rule in _rules(cidr):
            if _run(program, "-C", "FORWARD", *rule) is None and _run(program, "-A", "FORWARD", *rule) is not None:
                log.info("%s drops what is forwarded: accepted %s", program, " ".join(rule[:2]))


def take_back() -> None:
    """Removes what carries our mark, of whichever networks; none is no error."""
    for program in PROGRAMS.values():
        for line in (_run(program, "-S", "FORWARD") or "").splitlines():
            if line.startswith("-A ") and f'"{COMMENT}"' in line:
                _run(program, "-D", *shlex.split(line)[1:])


def _rules(cidr: str) -> list[list[str]]:
    return [[end, cidr, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"] for end in ("-s", "-d")]


def _run(program: str, *arguments: str) -> str | None:
    """What it prints; None where it is not there, or refuses."""
    path = shutil.which(program) or shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        return None
    command = [path, "-w", "5", *arguments]
    try:
        # Comments of others' rules are bytes of any kind.
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.debug("%s: %s", program, error)
        return None
    return done.stdout if done.returncode == 0 else None
