"""The revisioned key space: what a committed log entry does to the data.

Vocabulary: a *version* is one state of a key, written by one operation; its *revision* is (main, sub): `mod` counts the
store's transactions, `sub` the operations inside one. A *tombstone* is a version without value. A key's *history* is
its versions in order. The *event log* is all versions in order of revision; watches read it. *Compaction* at revision R
forgets what only a reader before R could see; it takes effect at once, its memory is given back by `sweep` in slices.

Rules: applying is deterministic (no clock, no chance, no order of a dict or set), because every member does it alone.
"""
