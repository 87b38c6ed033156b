"""The kernel answers whatever event loop the process prefers."""

import subprocess
import sys

import pytest

from raykube.podnetwork import links
from raykube.podnetwork.core.routes import Route, Wanted
from tests.kit.netns import Namespace, require_network_namespaces
from tests.kit.require import require_program

PROGRAM = """
import asyncio, threading, uvloop
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
from raykube.podnetwork import links
found = []
thread = threading.Thread(target=lambda: found.extend(links.segments()))
thread.start()
thread.join()
print(*found)
"""


def test_segments_where_the_process_prefers_uvloop() -> None:
    """As in a worker of Ray's, which installs uvloop's policy."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    shown = subprocess.run([require_program("ip"), "-o", "addr"], capture_output=True, text=True, check=True).stdout
    assert all(segment in shown for segment in done.stdout.split())


MAC = "02:00:00:00:00:01"


@pytest.mark.integration
def test_a_peer_of_a_family_that_is_off_here_keeps_no_tunnel_away() -> None:
    """Of two stacks this machine has one."""
    require_network_namespaces()
    wanted = Wanted(
        {
            cidr: Route(cidr, via, tunnelled=True)
            for cidr, via in (("10.244.2.0/24", "10.244.2.0"), ("fd44:2::/64", "fd44:2::"))
        },
        {"10.244.2.0": MAC, "fd44:2::": MAC},
        {MAC: "192.0.2.12"},
    )
    with Namespace() as space:
        space.write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        with space.entered():
            done, problems = links.Links().sync(
                wanted, links.Tunnel("192.0.2.11", ("10.244.1.0/24",), 4096, 4789, 1450)
            )
        assert done == 4, "the device, a route, a neighbour, the tunnel's end"
        assert ["fd44:2::" in problem for problem in problems] == [True, True]
        assert "dst 192.0.2.12" in space.run("bridge", "fdb", "show", "dev", "raykube.vx")


@pytest.mark.integration
def test_a_tunnel_that_cannot_be_made_is_an_error_of_the_system() -> None:
    """Anything else would end the service, and NetworkPolicies with it."""
    require_network_namespaces()
    with Namespace() as space, space.entered(), pytest.raises(OSError, match="the kernel refused"):
        links.Links().sync(
            Wanted({}, {}, {MAC: "192.0.2.12"}), links.Tunnel("192.0.2.11", ("10.244.1.0/24",), 4096, 4789, 70000)
        )
