"""The kernel answers whatever event loop the process prefers."""

import subprocess
import sys

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
