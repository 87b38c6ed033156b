"""Raft, pure: messages and ticks in, one `Ready` out; no clock, disk, network or chance of its own.

After Ongaro's dissertation, with pre-vote (§9.6), check-quorum and leader stickiness (§4.2.3, §6.2), ReadIndex (§6.4),
leadership transfer (§3.10), pipelined replication (§10.2.1).

Vocabulary: an entry is *stable* when this member's disk has it, *committed* when a quorum's disks have it, *applied*
when the state machine has carried it out. A member *campaigns* for leadership; a *round* of heartbeats confirms it.

The order of durability, which the caller owes to this package:
1. `Ready.messages` may leave at once. They promise nothing of this member's disk: a leader may replicate while its own
   disk writes, a follower may show that it listens.
2. `Ready.write` is made durable as one, in this order: snapshot, hard state, entries. Then its messages leave
   (votes, acknowledgements: promises that must outlive a crash), and `Node.persisted(write)` is told.
3. `Ready.committed` is applied in order. Only what is stable here is ever handed out.
There is at most one write at a time; what arrives meanwhile rides in the next. A leader gathers what is new between
rounds too (gathering.py): the caller owes `Node.let_go(Ready.hold)` after `gathering.hold_s`, or entries may wait for
ever; it measures what that wants, the time from the last `Ready.has_left` to the hold.
"""
