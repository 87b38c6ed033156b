"""Our rules among others' in the chain FORWARD of iptables, in a network namespace of the test's own."""

from collections.abc import Iterator

import pytest

from raykube.podnetwork.forwarding import let_through, take_back
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


def test_all_rules_of_ours_are_taken_back_and_no_other(space: Namespace) -> None:
    """Whoever cleans up may give other networks than those that were served: ours is what has our comment."""
    space.run("iptables", "-A", "FORWARD", "-s", "10.9.0.0/16", "-j", "ACCEPT")
    space.run("ip6tables", "-A", "FORWARD", "-s", "fd09::/16", "-m", "comment", "--comment", "ours too", "-j", "ACCEPT")
    before = rules(space), rules(space, "ip6tables")
    let_through(["10.9.0.0/16", "fd09::/16", "10.244.0.0/16"])
    let_through(["10.9.0.0/16"])
    assert (len(rules(space)), len(rules(space, "ip6tables"))) == (5, 3)
    twice = ["-s", "10.9.0.0/16", "-m", "comment", "--comment", "raykube pod network", "-j", "ACCEPT"]
    space.run("iptables", "-A", "FORWARD", *twice)  # two who looked at the same time
    take_back()
    assert (rules(space), rules(space, "ip6tables")) == before
