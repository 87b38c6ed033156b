"""Keeps a testbed's switch: the network namespace with its bridge lives as long as this process.

`python -m tests.testbed.keeper RECORD`, with a pipe from the tester as stdin. The pipe's end, which a SIGKILL of the
tester brings about too, is the order to remove all that the record names.
"""

import signal
import sys
from pathlib import Path

from tests.testbed import record


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends after its testbed, never before
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    record.clean(record.load(Path(sys.argv[1])))


if __name__ == "__main__":
    main()
