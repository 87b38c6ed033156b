"""Mistakes that real systems made, each planted from the tests' side: a function patched, a disk or a clock that lies.

The numbers are of the list that the store was designed against: 1–30 elections, the log and durability, 31–40 above it.
A mutant says who must notice it; `catch` lets that one look, for as many seeds as it may take.
"""

from tests.sim.mutants import disks, elections, replication, stores
from tests.sim.mutants.planted import MUTANTS

__all__ = ["MUTANTS", "disks", "elections", "replication", "stores"]
