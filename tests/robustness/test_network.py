"""The network of a run: what its rules say of packets is so."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.require import missing

pytestmark = pytest.mark.integration

# Moves into namespaces, so it is a process of its own. m1 and m2 answer every datagram; each is asked from each place.
SCRIPT = """
import socket, subprocess, sys
from tests.robustness.network import CLIENT, Impossible, Namespaces
ECHO = '''
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 7))
print("bound", flush=True)
while True:
    data, address = server.recvfrom(100)
    server.sendto(data, address)
'''
ASK = '''
import socket, sys
socket_ = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
socket_.settimeout(0.3)
try:
    socket_.sendto(b"?", (sys.argv[1], 7))
    print(socket_.recv(100) == b"?")
except TimeoutError:
    print(False)
'''
try:
    network = Namespaces(["m1", "m2"])
except Impossible as error:
    print(error)
    sys.exit(3)
servers = [subprocess.Popen(network.command(name, [sys.executable, "-c", ECHO]), stdout=subprocess.PIPE)
           for name in ("m1", "m2")]
for server in servers:
    server.stdout.readline()

def hears(place, name):
    address = network.client_address(name).partition(":")[0]
    command = [sys.executable, "-c", ASK, address]
    done = subprocess.run(network.command(place, command), capture_output=True, text=True)
    return done.stdout.strip() == "True"

pairs = [("m1", "m2"), ("m2", "m1"), (CLIENT, "m1"), (CLIENT, "m2")]
cut = [{"blocked": [pair]} for pair in (("m1", "m2"), ("m2", CLIENT))]
for rules in ({}, *cut, {"loss": 1.0}, {"delay_s": (0.6, 0.7)}, {}):
    network.set_rules(**rules)
    print(*(hears(*pair) for pair in pairs), flush=True)
for server in servers:
    server.kill()
    server.wait()
network.close()
"""


def test_packets_go_where_the_rules_let_them() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=60)
    if done.returncode == 3:
        missing(done.stdout.strip())
    assert done.stdout.splitlines() == [
        "True True True True",
        # A question is answered only when both ways are open.
        "False False True True",
        "True True True False",
        "False False False False",
        "False False False False",  # later than the asker waits
        "True True True True",
    ], done.stderr
