"""The collector of a component: what was there is left alone, and cycles that come are found all the same."""

import subprocess
import sys

PROGRAM = """
import gc, weakref
from raykube.base import collector

class Node:
    pass

def cycle():
    one, other = Node(), Node()
    one.other, other.other = other, one
    return weakref.ref(one)

collector.settle()
assert gc.get_freeze_count() > 1000 and gc.isenabled()
gone = cycle()
kept = []
while gone() is not None and len(kept) < 200_000:
    kept.append([])
print(len(kept))
batches = sum(each["collections"] for each in gc.get_stats()[2:])
for _ in range(50):
    [[] for _ in range(20_000)]
print(sum(each["collections"] for each in gc.get_stats()[2:]) - batches)
"""


def test_cycles_are_found_and_batches_are_not_taken_for_what_stays() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    waited, walks = map(int, done.stdout.split())
    assert waited < 200_000
    assert walks == 0
