"""Python's collector of cycles, set for a process that holds much for long.

What is decoded lives for a turn of the loop, in batches of tens of thousands of objects. As the interpreter sets it,
the collector takes them for long-lived, and walks all there is again and again to find nothing: more than half of the
CPU time of decoding watch events beside 10,000 pods went there.
"""

import gc

# New objects before a look at the youngest; looks before one at the middle generation; those before one at everything.
THRESHOLDS = (5_000, 20, 100)


def settle() -> None:
    """What is there now is not walked again, and what comes is walked seldom. Call it when all code is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def is_settled() -> bool:
    """Whether this process is one of ours, whose collector is ours to set: users' programs have their own garbage."""
    return gc.get_threshold() == THRESHOLDS
