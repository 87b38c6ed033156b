"""What `raykube leave` says when it does not come to its end."""

import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from raykube.cli.cluster import leave
from raykube.cluster import departure, placement
from raykube.cluster import state as cluster_state
from raykube.cluster.state import ClusterState, Machine
from raykube.cluster.wish import ClusterError


def test_who_interrupts_it_is_told_that_the_machine_leaves_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(departure, "leave", interrupted)
    done = CliRunner().invoke(leave, ["--data-dir", str(tmp_path), "m1"])
    assert done.exit_code == 130
    assert "goes on with it" in done.output


def test_where_there_is_no_place_for_its_member_the_way_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(name="m1", address="10.0.0.1", index=1, control_plane=True)
    state = ClusterState(name="c", id="0" * 32, subnet=0, local=False, machines=[machine])
    monkeypatch.setattr(placement, "ask", lambda *_: ["draining"])
    monkeypatch.setattr(placement, "handed_over", lambda _: None)
    monkeypatch.setattr(placement, "names", lambda: {"kv-m1"})
    with pytest.raises(ClusterError, match="--control-plane 1'; 'raykube leave' again goes on"):
        departure._await_drained(state, machine, deadline=0.0)


def test_whose_member_has_moved_is_not_told_to_have_a_smaller_control_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pods are what takes the time."""
    machine = Machine(name="m1", address="10.0.0.1", index=1, control_plane=True)
    before = ClusterState(name="c", id="0" * 32, subnet=0, local=False, machines=[machine])
    after = before.model_copy(update={"machines": [machine.model_copy(update={"control_plane": False})]})
    monkeypatch.setattr(placement, "ask", lambda *_: ["draining"])
    monkeypatch.setattr(placement, "handed_over", lambda _: after)
    monkeypatch.setattr(placement, "names", lambda: {"kubelet-m1"})
    with pytest.raises(ClusterError, match="in time: it is 'draining'"):
        departure._await_drained(before, machine, deadline=0.0)


def test_a_machine_that_is_forgotten_while_it_leaves_is_waited_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """It died. Its actors may still have their names, until Ray has ended them."""
    dead, other = (Machine(name=f"m{n}", address=f"10.0.0.{n}", index=n) for n in (1, 2))
    before = ClusterState(name="c", id="0" * 32, subnet=0, local=False, machines=[dead, other])
    records = [before, before.model_copy(update={"machines": [other]})]
    monkeypatch.setattr(departure, "POLL_S", 0.0)
    monkeypatch.setattr(placement, "ask", lambda *_: ["draining"])
    monkeypatch.setattr(placement, "handed_over", lambda _: records.pop(0) if len(records) > 1 else records[0])
    monkeypatch.setattr(placement, "names", lambda: {"kubelet-m1"})
    assert not departure._await_drained(before, dead, deadline=time.monotonic() + 10.0)


def test_a_cluster_on_one_computer_is_not_left_and_its_ray_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a token of its own, without which Ray answers nobody: after half a minute, and not what is wrong."""
    cluster_state.save(tmp_path, ClusterState(name="c", id="0" * 32, subnet=9, local=True, machines=[]))
    monkeypatch.setattr(placement, "connect", lambda *_: pytest.fail("Ray was asked"))
    done = CliRunner().invoke(leave, ["--name", "c", "--data-dir", str(tmp_path), "m1"])
    assert (done.exit_code, "'raykube down' ends it" in done.output) == (1, True)
