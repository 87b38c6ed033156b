"""The zone's answers, as transcripts: objects go in, `ask NAME TYPE` prints what dnslib reads from the answer."""

import json
from pathlib import Path

import pytest
import yaml
from dnslib import QTYPE, RCODE, DNSRecord

from raykube.dns.core.responder import Ask, Responder
from raykube.dns.core.wire import text_name
from raykube.dns.core.zone import Zone
from tests.dns.objects import endpoint_slice, namespace, put, query, remove, service
from tests.kit.transcript import Step, play

FILES = sorted((Path(__file__).parent / "testdata").glob("*.txt"))


def describe(answer: bytes | Ask | None) -> str:
    if answer is None:
        return "no answer"
    if isinstance(answer, Ask):
        lines = [f"ask upstream: {text_name(answer.wanted.name)} {QTYPE[answer.wanted.type]}"]
        return "\n".join(
            [*lines, *(f"{text_name(r.owner)} {r.ttl_s} CNAME {text_name(r.data)}" for r in answer.aliases)]
        )
    found = DNSRecord.parse(answer)
    header = found.header
    flags = [name for name in ("aa", "tc", "rd", "ra") if getattr(header, name)]
    lines = [f"{RCODE[header.rcode]} {' '.join(flags)}"]
    for title, records in (("", found.rr), ("authority ", found.auth), ("additional ", found.ar)):
        for each in records:
            if each.rtype == QTYPE.OPT:
                lines.append(f"OPT {each.edns_len}" + (" BADVERS" if each.edns_rcode else ""))
            else:
                lines.append(f"{title}{each.rname} {each.ttl} {QTYPE[each.rtype]} {each.rdata}")
    return "\n".join(lines)


class World:
    """A zone that a transcript builds."""

    def __init__(self) -> None:
        self.zone = Zone("cluster.local", servers=["10.96.0.10"])
        self.responder = Responder(self.zone)

    def handle(self, step: Step) -> str:
        """namespace NAME / service NAME [ns=] [ip=a,b] [external=] [port …] / slice …; delete before either."""
        command, arguments = step.command, step.arguments
        act = put
        if command == "delete":
            act, command, *arguments = remove, *arguments
        if command == "ask":
            tcp = "tcp" in arguments
            edns = next((int(word[5:]) for word in arguments if word.startswith("edns=")), 0)
            return describe(self.responder.respond(query(arguments[0], arguments[1], edns=edns), tcp=tcp))
        if command == "send":
            return describe(self.responder.respond(bytes.fromhex("".join(arguments))))
        if command == "namespace":
            act(self.zone, *map(namespace, arguments))
            return ""
        name, *words = arguments
        options = dict(word.split("=", 1) for word in words if word.startswith(("ns=", "ip=", "external=", "name=")))
        ns = options.get("ns", "default")
        ports = [word for word in words if "/" in word]
        if command == "service":
            ips = options.get("ip", "").split(",")
            act(self.zone, service(name, *ips, ns=ns, ports=ports, external=options.get("external", "")))
        elif command == "slice":
            points = [w for w in words if "/" not in w and not w.startswith(("ns=", "name="))]
            act(self.zone, endpoint_slice(name, *points, ns=ns, ports=ports, name=options.get("name", "")))
        elif command == "apply":
            put(self.zone, *yaml.safe_load_all("\n".join(step.body)))
        else:
            raise AssertionError(f"no command {json.dumps(command)}")
        return ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path, request: pytest.FixtureRequest) -> None:
    play(path, World().handle, request.config.getoption("--rewrite"))
