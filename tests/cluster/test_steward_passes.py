"""The steward's passes, one after the other, with a store and machines that are played."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raykube.cluster import addresses
from raykube.cluster import state as cluster_state
from raykube.cluster.plan import Placement
from raykube.cluster.ray_nodes import MACHINE_LABEL
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.steward.config import Config
from raykube.cluster.steward.decide import LEARNED_S
from raykube.cluster.steward.service import Service
from raykube.cluster.steward.voices import Voices
from raykube.kv.core.member_changes import NO_ROOM
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError, Tls

PASS_S = 61.0  # between two passes: the steward's patience is over with the second one
LAGS = "etcdserver: can only promote a learner member which is in sync with leader"


class Played:
    """A cluster whose store's leader, on machine a, has the steward; `names` are its machines."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, names: str, members: str = "abc") -> None:
        machines = [self.machine(name) for name in names]
        self.state = ClusterState(
            name="c", id="0" * 32, subnet=9, local=True, machines=machines, control_plane_size=len(members)
        )
        self.members: dict[str, Any] = {}
        self.actors = {f"kv-{name}" for name in members}
        for name in members:
            self.add(name)
        self.silent: set[str] = set()  # machines whose member does not answer
        self.dead: set[str] = set()  # machines that Ray takes for dead
        self.refusals: dict[str, str] = {}  # machine → why its learner is not promoted
        self.alarms: set[str] = set()  # machines whose member says that it is full
        self.newcomer = ""
        self.leader = "a"
        self.rests = 0
        self.now = 0.0
        self.tended = 0
        self.detail = ""
        self.done: list[str] = []
        self.steward = Service(Config(state=self.state, machine="a", data_dir=folder))
        clock = SimpleNamespace(monotonic=lambda: self.now)
        for module in ("service", "voices"):
            monkeypatch.setattr(f"raykube.cluster.steward.{module}.time", clock)
        monkeypatch.setattr("raykube.cluster.placement.nodes", self._nodes)
        monkeypatch.setattr("raykube.cluster.placement.names", lambda: set(self.actors))
        monkeypatch.setattr("raykube.cluster.placement.start", self._start)
        monkeypatch.setattr("raykube.cluster.placement.end", self.actors.discard)
        voices = Voices(Tls(folder / "crt", folder / "key", folder / "ca"), 60.0)
        monkeypatch.setattr(
            "raykube.cluster.steward.voices.Channel",
            lambda name, _: SimpleNamespace(stub=self._at(name), close=self._close),
        )
        for name, value in {"_client": self, "_voices": voices, "_tending": self, "_read_record": self._record}.items():
            monkeypatch.setattr(self.steward, name, value)

    def machine(self, name: str) -> Machine:
        index = ord(name) - ord("a") + 1
        return Machine(name=name, address=f"127.9.9.{index}", index=index, control_plane=name in "abc")

    def add(self, name: str, learner: bool = False, has_started: bool = True) -> None:
        machine = self.machine(name)
        number = max((member.ID for member in self.members.values()), default=0) + 1
        url = addresses.kv_peer_url(machine)
        self.members[name] = etcd_pb2.Member(ID=number, peerURLs=[url], isLearner=learner)
        if has_started:
            self._begin(name)

    def _begin(self, name: str) -> None:
        self.members[name].name = name
        self.members[name].clientURLs[:] = [f"https://{name}"]

    def home(self, member: int) -> str:
        return next(name for name, each in self.members.items() if member == each.ID)

    def passes(self, count: int, period_s: float = PASS_S) -> list[str]:
        """What is done in so many passes of the steward."""
        self.done.clear()

        async def run() -> None:
            for _ in range(count):
                self.now += period_s
                await self.steward._pass()

        asyncio.run(run())
        return list(self.done)

    # ---- the store

    async def call(self, _service: str, method: str, request: Any, *_: object, **__: object) -> Any:
        match method:
            case "Status":
                return etcd_pb2.StatusResponse(
                    leader=self.members[self.leader].ID, header=etcd_pb2.ResponseHeader(member_id=1)
                )
            case "MemberList":
                return etcd_pb2.MemberListResponse(members=self.members.values())
            case "MemberAdd":
                name = next(
                    each.name for each in self.state.machines if addresses.kv_peer_url(each) in request.peerURLs
                )
                self.add(name, learner=True, has_started=False)
            case "MemberPromote":
                name = self.home(request.ID)
                if refusal := self.refusals.get(name):
                    raise RpcError(Code.FAILED_PRECONDITION, refusal)
                self.members[name].isLearner = False
            case "MemberRemove":
                self.members.pop(name := self.home(request.ID))
        self.done.append(f"{method.removeprefix('Member')} {name}")
        return None

    async def _close(self) -> None:
        pass

    def _at(self, name: str) -> Callable[[Any], Any]:
        """Makes stubs of the member on a machine."""

        async def status(*_: object, **__: object) -> Any:
            if name in self.silent:
                raise RpcError(Code.UNAVAILABLE, "no answer")
            full = [f"memberID:{self.members[name].ID} alarm:NOSPACE "] if name in self.alarms else []
            return etcd_pb2.StatusResponse(errors=full)

        return lambda _: SimpleNamespace(Status=status)

    # ---- machines and actors

    def _nodes(self) -> list[dict[str, Any]]:
        return [
            {"Labels": {MACHINE_LABEL: machine.name}, "Alive": machine.name not in self.dead}
            for machine in self.state.machines
        ]

    def _start(self, item: Placement, *_: object) -> None:
        self.actors.add(item.name)
        self._begin(item.machine.name)

    # ---- what the steward does besides

    async def _record(self, linearizable: bool) -> int:
        return int(linearizable)

    def certify(self, _state: ClusterState) -> None:
        pass

    def rest(self) -> None:
        self.rests += 1

    async def tend(self, *_: object) -> object:
        self.tended += 1
        if self.newcomer:
            self.state.machines.append(self.machine(self.newcomer).model_copy(update={"control_plane": False}))
            self.newcomer = ""
        return None


@pytest.mark.parametrize("refusal", [NO_ROOM, LAGS])
def test_a_learner_that_is_not_promoted_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: str
) -> None:
    """A machine that would be the way out is not even admitted else."""
    played = Played(tmp_path, monkeypatch, "abc")
    played.members["c"].isLearner = True
    played.refusals["c"] = refusal
    played.detail = "drain x"
    assert played.passes(3) == []
    assert played.tended == 3
    assert played.steward.status()["detail"] == f"promote c: {refusal}; drain x"
    played.refusals.clear()
    assert played.passes(1) == ["Promote c"]


@pytest.mark.parametrize(
    ("error", "said"), [(OSError("no ca.key"), "no ca.key"), (RuntimeError("gcs"), "RuntimeError")]
)
def test_a_step_that_fails_in_every_pass_stops_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    """Here an actor cannot be made: the machine's authority is damaged, or Ray refuses."""
    played = Played(tmp_path, monkeypatch, "abcd")

    def start(*_: object) -> None:
        raise error

    monkeypatch.setattr("raykube.cluster.placement.start", start)
    played.actors.discard("kv-c")
    played.passes(2, 1.0)
    assert played.tended == 2
    assert played.steward.status()["detail"] == f"host c: {said}"


def test_a_control_plane_machine_on_which_a_member_was_given_up_is_tried_after_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk is full, and the machine that was brought as the way out is of the control plane only with a member."""
    played = Played(tmp_path, monkeypatch, "abc")
    played.silent.add("c")
    played.alarms.add("c")
    played.refusals["c"] = NO_ROOM
    assert played.passes(4) == ["Remove c", "Add c"], "its own machine is the only one"
    played.silent.clear()
    played.passes(3)
    played.newcomer = "d"
    assert played.passes(10) == ["Remove c", "Add d", "Promote d"]


def test_a_machine_on_which_a_member_was_promoted_is_as_good_as_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, "abc")
    played.silent.add("c")
    played.passes(4)
    played.silent.clear()
    assert played.passes(3) == ["Promote c"]
    played.newcomer = "d"
    played.passes(1)
    # Taken away by hand.
    played.members.pop("c")
    played.actors.discard("kv-c")
    assert played.passes(3) == ["Add c", "Promote c"]


def test_a_learner_that_would_be_promoted_is_not_removed_for_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over the quota all members say that they are full, each of itself; and a new steward has all from one moment."""
    played = Played(tmp_path, monkeypatch, "abcde")
    played.add("d", learner=True)
    played.actors.add("kv-d")
    played.silent.add("c")
    played.alarms.update("abd")
    assert played.passes(4) == ["Promote d", "Remove c"]


def test_a_learner_without_room_has_its_time_to_get_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(tmp_path, monkeypatch, "abcde")
    played.add("d", learner=True)
    played.actors.add("kv-d")
    played.silent.add("c")
    played.refusals["d"] = LAGS
    assert played.passes(5) == [], "it is none that has no room"
    played.refusals["d"] = NO_ROOM
    assert played.passes(3, 25.0) == []
    played.refusals["d"] = LAGS
    assert played.passes(1, 1.0) == [], "it had room for a moment"
    played.refusals["d"] = NO_ROOM
    assert played.passes(3, 25.0) == []
    assert played.passes(8, 25.0) == ["Remove d", "Add e", "Promote e", "Remove c"]


def test_a_lost_machine_does_not_keep_the_store_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is off answers no packet. Whoever waited for it in the loop would keep the leader beside the steward
    from its heartbeats, with every pass, for each such machine."""
    played = Played(tmp_path, monkeypatch, "abcd")
    waits: list[object] = []

    def connect(address: object, *_: object) -> None:
        waits.append(address)
        raise TimeoutError

    monkeypatch.setattr("socket.create_connection", connect)
    played.dead.update("cd")
    played.silent.add("c")
    played.passes(1)
    assert waits == []


def test_a_machine_whose_member_answers_is_not_lost_whatever_ray_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, "abcd")
    played.dead.add("c")
    assert played.passes(3) == []
    played.silent.add("c")
    assert played.passes(5) == ["Add d", "Promote d", "Remove c"]


def test_a_member_that_starts_and_crashes_in_turn_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers now and then, and never for long."""
    played = Played(tmp_path, monkeypatch, "abcd")
    done: list[str] = []
    for _ in range(40):
        for is_silent in (True, True, False):
            played.silent = {"c"} if is_silent else set()
            done += played.passes(1, 2.0)
    assert done == ["Add d", "Promote d", "Remove c"]


def test_a_member_that_misses_a_question_now_and_then_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(tmp_path, monkeypatch, "abcd")
    for turn in range(2000):
        played.silent = {"c"} if turn % 12 == 0 else set()
        assert played.passes(1, 2.0) == []


def test_a_member_that_was_silent_for_long_and_is_back_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many were for one to be made anew, and there was no machine for it; now there is."""
    played = Played(tmp_path, monkeypatch, "abc")
    played.silent.update("bc")
    assert played.passes(10) == []
    played.silent.clear()
    played.newcomer = "d"
    assert played.passes(1, 2.0) == []
    assert played.passes(40, 2.0) == []
    played.silent.add("c")
    assert played.passes(20, 2.0) == [], "what was before is forgotten"


def test_clients_have_time_to_learn_of_a_promoted_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(tmp_path, monkeypatch, "ab", members="a")
    played.state.machines[0] = played.state.machines[0].model_copy(update={"phase": "draining"})
    assert played.passes(8, 2.0) == ["Add b", "Promote b"]
    begun = played.now
    while not (done := played.passes(1, 2.0)):
        assert played.now < begun + 2 * LEARNED_S
    assert done == ["Remove a"]


def test_a_member_that_was_silent_for_an_hour_may_miss_a_question_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, "abc")
    played.silent.update("bc")
    assert played.passes(60) == []
    played.newcomer = "d"
    for turn in range(400):
        played.silent = {"c"} if turn % 20 == 19 else set()
        assert played.passes(1, 2.0) == []


def test_a_steward_whose_member_does_not_lead_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(tmp_path, monkeypatch, "abc")
    played.passes(1)
    assert (played.tended, played.rests) == (1, 0)
    played.leader = "b"
    played.passes(2)
    assert (played.tended, played.rests) == (1, 2)


def test_a_member_that_was_slow_to_begin_is_not_given_up_in_the_moment_in_which_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(tmp_path, monkeypatch, "abcd")
    played.silent.add("c")
    started: list[str] = []
    monkeypatch.setattr(
        "raykube.cluster.placement.start", lambda item, *_: started.append(item.name) or played.actors.add(item.name)
    )
    assert played.passes(3) == ["Add d"]
    assert started == ["kv-d"]
    assert played.passes(4, 25.0) == []
    played.silent.add("d")  # the others know who it is, and it does not answer yet
    played._begin("d")
    played.refusals["d"] = LAGS
    assert played.passes(2, 25.0) == []
    played.silent.discard("d")
    played.refusals.clear()
    assert played.passes(3, 2.0) == ["Promote d", "Remove c"]


def test_the_copy_of_the_record_is_made_when_the_disk_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`up` finds the store again by it. It was not tried again before the record's next change, which may be years."""
    path = tmp_path / cluster_state.FILE_NAME
    path.write_text("{")
    machine = Machine(name="a", address="127.9.9.1", index=1)
    state = ClusterState(name="c", id="0" * 32, subnet=9, local=True, machines=[machine])
    service = Service(Config(state=state, machine="a", data_dir=tmp_path))
    new = state.model_copy(update={"generation": 7})
    save = cluster_state.save
    full = [OSError(errno.ENOSPC, "no space")] * 2

    async def read(*_: object, **__: object) -> tuple[ClusterState, int]:
        return new, 1

    def saving(*arguments: Any) -> None:
        if full:
            raise full.pop()
        save(*arguments)

    monkeypatch.setattr(service, "_client", object())
    monkeypatch.setattr("raykube.cluster.record.read", read)
    monkeypatch.setattr(cluster_state, "save", saving)
    for _ in range(2):
        assert asyncio.run(service._read_record(linearizable=True)) == 1, "the pass goes on"
        assert path.read_text() == "{"
    asyncio.run(service._read_record(linearizable=True))
    assert cluster_state.load(tmp_path) == new
