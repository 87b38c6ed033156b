"""The store's steward: replaces members whose machine is lost, without a hand.

It runs beside every member of the store and acts where the member leads, so that there is always one and only one, on
the side that has a quorum. It remembers nothing: each step follows from the store's own list of members and from Ray's
lists of machines and actors, so that a steward that dies in the middle is continued by the next leader's.

    lost machine → MemberAdd (learner) → actor on a spare machine → caught up: MemberPromote → MemberRemove of the lost
"""
