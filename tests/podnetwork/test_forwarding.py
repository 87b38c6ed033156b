"""Our rules among others' in the chain FORWARD of iptables, in a network namespace of the test's own."""

from collections.abc import Iterator

import pytest

from raykube.podnetwork.forwarding import let_through
from tests.kit.netns import Namespace, require_network_namespaces
from tests.kit.require import require_program

pytestmark = pytest.mark.integration


@pytest.fixture
def space() -> Iterator[Namespace]:
    require_network_namespaces()
    for program in ("iptables", "ip6tables"):
        require_program(program)
    with Namespace() as found, found.entered():
        for program in ("iptables", "ip6tables"):
            found.run(program, "-P", "FORWARD", "DROP")
        yield found


def rules(space: Namespace, program: str = "iptables") -> list[str]:
    return space.run(program, "-S", "FORWARD").splitlines()[1:]  # the first is the policy


def test_a_comment_that_is_no_utf8_stops_nothing(space: Namespace) -> None:
    """Each look at the chain ended the pod network of this machine."""
    comment = b"f\xfcr uns".decode(errors="surrogateescape")
    space.run("iptables", "-A", "FORWARD", "-p", "sctp", "-m", "comment", "--comment", comment, "-j", "REJECT")
    let_through(["10.244.0.0/16"])
    space.run("iptables", "-D", "FORWARD", "1")  # or this test could not read the list
    assert len(rules(space)) == 2
