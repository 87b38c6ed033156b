"""Real machines, made of Linux namespaces: hosts with a network, a disk, processes and an sshd of their own.

    with Testbed(hosts=3) as bed:
        bed.run("host1", ["ping", "-c1", "host2"])
        bed.cut("host2")      # its network cable is pulled; mend() plugs it in
        bed.kill("host3")     # its power is gone; boot() starts it again with the same disk
        bed.run("outside", ["nc", "-z", "host1", "22"])   # a machine of the same network with no cluster software

What is on a host: `init.py`. How it is removed, whatever happens: `record.py`, `keeper.py`. `make testbed` for people.
"""

from tests.testbed.bed import OUTSIDE, Testbed
from tests.testbed.host import Host

__all__ = ["OUTSIDE", "Host", "Testbed"]
