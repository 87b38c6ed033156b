"""The person who changes the group's members while everything fails: adds, promotes, removes, moves, replaces machines.

The operator asks whoever leads, as etcdctl does, and never takes silence for an answer: what is in the committed
membership is what counts. A member that was removed is switched off after a while; an added one starts blank.
"""

from typing import Any

from raykube.kv.core.member_changes import AddMember, Change, PromoteMember, RemoveMember, UpdateMember
from raykube.kv.core.mvcc.errors import StoreError
from raykube.kv.core.raft.membership import Membership
from tests.sim.host import Host
from tests.sim.world import World

PAUSE_S = 1.5
VOTERS_MAX = 5


class Operator:
    """Changes members until the world heals; then puts right what is wrong, a lost machine for instance."""

    def __init__(self, world: World, pause_s: float = PAUSE_S) -> None:
        self._world = world
        world.has_operator = True
        self._pause_s = pause_s
        self._addresses = 0
        world.at(1.0 + world.rng.random() * pause_s, self._act)
        world.at(0.2, self._look)

    def _act(self) -> None:
        world = self._world
        world.at(world.rng.random() * self._pause_s * 2, self._act)
        leaders = world.leaders()
        if not leaders:
            return
        is_repair = world.is_healing or self._is_ill() or world.rng.random() < 0.3
        change = self._repair() if is_repair else self._wish()
        if change is not None:
            self._ask(world.rng.choice(leaders), change, is_repair)

    def _is_ill(self) -> bool:
        """Who has lost a machine or data changes nothing else before that is put right: it could cost the quorum."""
        return any(host.is_lost or not host.is_whole for host in self._world.members())

    def _membership(self) -> Membership:
        return self._world.checks.membership

    def _repair(self) -> Change | None:
        """What a lost machine or a waiting learner asks for."""
        membership = self._membership()
        for member in membership.members:
            host = self._world.hosts.get(member.id)
            if host is not None and host.is_lost:
                return RemoveMember(member.id)
        for member in membership.members:
            if member.learner:
                return PromoteMember(member.id)
        return None

    def _wish(self) -> Change | None:
        rng, membership = self._world.rng, self._membership()
        match rng.choice(["add", "learner", "promote", "remove", "move"]):
            case "add" | "learner" as how:
                if len(membership.members) >= VOTERS_MAX:
                    return None
                return AddMember(self._address(), how == "learner", rng.randrange(1 << 30))
            case "promote":
                learners = [member.id for member in membership.members if member.learner]
                return PromoteMember(rng.choice(learners)) if learners else None
            case "remove":
                return RemoveMember(rng.choice(membership.ids)) if len(membership.voters) > 1 else None
            case _:
                return UpdateMember(rng.choice(membership.ids), self._address())

    def _address(self) -> tuple[str, ...]:
        self._addresses += 1
        return (f"http://n{self._addresses}:2380",)

    def _ask(self, host: Host, change: Change, is_repair: bool) -> None:
        world = self._world
        request = world.new_id()

        def answered(answer: Any) -> None:
            is_done = not isinstance(answer, StoreError)
            world.counts["membership changes" if is_done else "membership changes lost"] += 1
            if is_done:
                world.checks.on_changed(answer)

        def ask() -> None:
            assert host.replica is not None
            if self._is_ill() and not is_repair:
                return  # it came too late: the leader stood still
            host.answers[request] = answered
            try:
                is_taken = host.replica.change_members(request, change, host.is_late)
            except StoreError:
                world.counts["membership changes refused"] += 1
                is_taken = False
            if is_taken:
                world.note("change", host.id, change)
            else:
                host.answers.pop(request, None)

        host.deliver(ask)

    def _look(self) -> None:
        """Starts machines for new members, and switches off those of removed ones."""
        world = self._world
        world.at(0.5, self._look)
        membership = self._membership()
        # Whoever asked for an addition starts the machine, whether or not it was told that it is done.
        visible = [host.replica.node.membership for host in world.up() if host.replica is not None]
        for member in {member: None for seen in [membership, *visible] for member in seen.ids}:
            if member not in world.hosts:
                world.counts["members added"] += 1
                world.add_host(member)
        for member in membership.removed:
            host = world.hosts.get(member)
            if host is not None and not host.is_gone and world.rng.random() < 0.1:
                host.leave()
