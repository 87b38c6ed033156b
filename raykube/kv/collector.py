"""The garbage collector kept away while a store is read: millions of objects come, and none of them is garbage.

It would walk what is there already again and again: two thirds of the time of a start with a million revisions.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Nothing is collected meanwhile, and what is there at the end is never looked at again (`memory.py`)."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
