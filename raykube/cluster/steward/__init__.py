"""The steward: keeps a cluster as the operator asked for it, whatever machines come and go, without a hand.

It runs beside every member of the store and acts where the member leads, so that there is always one and only one, on
the side that has a quorum. It remembers nothing: each step follows from the store's own list of members, the cluster's
record in the store, and Ray's lists of machines and actors, so that a steward that dies in the middle is continued by
the next leader's. Where members of the store are, the rest of the control plane is: only members are decided about.

    lost machine → MemberAdd (learner) → actor on a spare machine → caught up: MemberPromote → MemberRemove of the lost
                 → the record's control plane is where the voters are → actors are started and ended to fit
    new machine in Ray → facts → record → certificates, actors → a Node
    machine that leaves → drained → actors ended, containers and rules cleared → Node deleted, forgotten
"""
