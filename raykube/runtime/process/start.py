"""Starts the shim: a file of its own, because Python compiles the main file anew each time, but a module only once."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

TYPE_CHECKING = False
if TYPE_CHECKING:
    from raykube.runtime.process.shim import main
else:
    from shim import main

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5], sys.argv[6:])
