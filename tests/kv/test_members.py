"""Members come, learn, are promoted, replaced and removed, over real sockets."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from raykube.kv.config import Config
from raykube.kv.recall import Removed
from raykube.kv.service import Service
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from raykube.rpc import Code, RpcError
from tests.kit import pki
from tests.kit.ports import free_ports
from tests.kit.waiting import until
from tests.kv.group import Group, running_group


async def _write(group: Group, key: bytes, value: bytes = b"1") -> None:
    await group.client.write([Write(key=key, value=value, expected_revision=-1)])


async def test_a_cluster_grows_from_one_and_shrinks_again(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        await _write(group, b"/a")
        for name in ("m2", "m3"):
            await group.started("m1")
            await group.add(name)
            await group.start(name)
            await group.started(name)
            await _write(group, b"/" + name.encode())
        await group.agree()
        assert sorted(member.name for member in await group.members()) == ["m1", "m2", "m3"]
        # The leader goes first: the others take over, and it says that it is none any more.
        first = await group.leader()
        await group.remove(first)
        with pytest.raises(Removed, match="permanently removed"):
            await group.services[first].wait()
        await group.stop(first)
        await _write(group, b"/after")
        second = await group.leader()
        other = next(name for name in group.services if name != second)
        await group.remove(other)
        await group.stop(other)
        await _write(group, b"/alone")
        assert [member.name for member in await group.members()] == [second]
        with pytest.raises(RpcError, match="not enough started members"):
            await group.remove(second)


async def test_a_learner_learns_and_is_promoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.kv.snapshotter.ENTRIES_KEPT", 5)
    async with running_group(tmp_path, 3, snapshot_count=20) as group:
        await until(group.all_started)
        for number in range(50):
            await _write(group, b"/k%d" % number)
        member = await group.add("m4", learner=True)
        with pytest.raises(RpcError, match="in sync with leader") as error:
            await group.promote(member.ID)
        assert error.value.code is Code.FAILED_PRECONDITION
        with pytest.raises(RpcError, match="too many learner members"):
            await group.add("m5", learner=True)
        for number in range(50):
            await _write(group, b"/later%d" % number)
        await group.start("m4")
        await group.started("m4")
        await group.agree()
        assert any((tmp_path / "m4" / "snap").glob("*.snap"))  # nobody's log had all of it any more
        found = await group.members()
        assert [each.isLearner for each in found if each.ID == member.ID] == [True]
        for refused in (
            group.call("m4", "KV", "Range", etcd_pb2.RangeRequest(key=b"/k1")),
            group.call("m4", "KV", "Put", etcd_pb2.PutRequest(key=b"/k1")),
            group.call("m4", "Cluster", "MemberList", etcd_pb2.MemberListRequest()),
        ):
            with pytest.raises(RpcError, match="rpc not supported for learner") as error:
                await refused
            assert error.value.code is Code.UNAVAILABLE
        found = await group.call("m4", "KV", "Range", etcd_pb2.RangeRequest(key=b"/k1", serializable=True))
        assert found.kvs[0].value == b"1"
        assert (await group.call("m4", "Maintenance", "Status", etcd_pb2.StatusRequest())).isLearner
        await group.promote(member.ID)
        with pytest.raises(RpcError, match="can only promote a learner member"):
            await group.promote(member.ID)
        found = await group.call("m4", "KV", "Range", etcd_pb2.RangeRequest(key=b"/k1"))
        assert found.kvs[0].value == b"1"
        # Four voters stand the loss of one.
        await group.crash(await group.leader())
        await _write(group, b"/after")
        await group.agree()


async def test_a_lost_member_is_replaced_under_its_old_name(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3, snapshot_count=20) as group:
        await until(group.all_started)
        leader = await group.leader()
        victim = next(name for name in group.names if name != leader)
        old = group.member_id(victim)
        await group.crash(victim)
        shutil.rmtree(tmp_path / victim)
        for number in range(50):
            await _write(group, b"/k%d" % number)
        await group.remove(victim)
        # It comes back as a founder with nothing: the others know better.
        with pytest.raises(Removed):
            await Service(group.configs[victim]).start()
        added = await group.add(victim)
        assert old != added.ID
        await group.start(victim)
        await group.started(victim)
        await group.agree()
        assert group.member_id(victim) == added.ID
        assert len(await group.members()) == 3
        # It keeps its place over a restart with the same flags, and with its files only.
        await group.stop(victim)
        await _write(group, b"/while-away")
        await group.start(victim)
        await group.agree()
        await group.stop(victim)
        shutil.rmtree(tmp_path / victim)
        with pytest.raises(ValueError, match="has begun with another data directory"):
            await Service(group.configs[victim]).start()


async def test_a_member_that_was_away_while_it_was_removed_hears_it(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await until(group.all_started)
        leader = await group.leader()
        victim = next(name for name in group.names if name != leader)
        await group.stop(victim)
        await group.remove(victim)
        service = group.services[victim] = Service(group.configs[victim])
        await service.start()
        with pytest.raises(Removed):
            await service.wait()
        assert not service.status()["healthy"]


async def test_members_join_over_tls(tmp_path: Path) -> None:
    own = pki.tls("m1", server=True)
    flags = {
        "peer_cert_file": own.cert_file,
        "peer_key_file": own.key_file,
        "peer_trusted_ca_file": own.ca_file,
        "peer_cert_allowed_cn": ["m1"],
    }
    async with running_group(tmp_path, 1, **flags) as group:
        await group.started("m1")
        await group.add("m2")
        await group.start("m2")
        await group.started("m2")
        await _write(group, b"/a")
        await group.agree()
        # Whoever shows no certificate that members may show is not let in, and not told who the members are.
        other = pki.tls("somebody", server=True)
        await group.add("m3")
        flags = {"peer_cert_file": other.cert_file, "peer_key_file": other.key_file}
        with pytest.raises(ValueError, match=r"names .*somebody.*, which may not call this"):
            await Service(group.configs["m3"].model_copy(update=flags)).start()


async def test_a_stranger_does_not_join(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        group.prepare("m4")
        with pytest.raises(ValueError, match=r"has no member at .*: add it first"):
            await Service(group.configs["m4"]).start()


async def test_a_member_moves(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await until(group.all_started)
        leader = await group.leader()
        mover = next(name for name in group.names if name != leader)
        await group.stop(mover)
        await group.update(mover)
        await group.start(mover)
        await _write(group, b"/a")
        await group.agree()
        # The others reach it, whoever leads.
        await group.stop(leader)
        await group.start(leader)
        await _write(group, b"/b")
        await group.agree()


async def test_one_that_was_away_when_another_moved_finds_it(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await until(group.all_started)
        await group.stop("m2")
        await group.update("m1")
        await group.stop("m1")
        await group.start("m1")
        await group.leader()
        # Of the two that are left, one knows only the old address of the other.
        await group.stop("m3")
        await group.start("m2")
        await group.leader()
        await _write(group, b"/a")
        await group.agree()


async def test_a_second_member_is_let_in_while_the_first_cannot_lead(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        await group.started("m1")
        await _write(group, b"/a")
        await group.add("m2")
        # From here on it takes two to lead, and the first one was restarted before the second ever ran.
        await group.stop("m1")
        await group.start("m1")
        assert not group.services["m1"].status()["healthy"]
        await group.start("m2")
        await group.leader()
        await _write(group, b"/b")
        await group.agree()
        await group.stop("m2")
        shutil.rmtree(tmp_path / "m2")
        with pytest.raises(ValueError, match="has begun with another data directory"):
            await Service(group.configs["m2"]).start()


async def test_changes_wait_for_each_other_and_for_a_leader(tmp_path: Path) -> None:
    async with running_group(tmp_path, 5) as group:
        await until(group.all_started)
        leader = await group.leader()
        first, second, *_ = (name for name in group.names if name != leader)
        await asyncio.gather(group.remove(first), group.remove(second))
        for gone in (first, second):
            with pytest.raises(Removed):
                await group.services[gone].wait()
            await group.stop(gone)
        assert len(await group.members()) == 3
        await group.crash(leader)
        # Asked of a follower, while there is no leader.
        await group.remove(leader)
        assert len(await group.members()) == 2
        await _write(group, b"/after")


async def test_a_leader_that_stood_still_knows_it_before_its_next_tick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_group(tmp_path, 1) as group:
        await group.leader()
        member = group.services["m1"].member
        assert member is not None
        original, asked = member.replica.change_members, []

        def change_members(*arguments: Any) -> bool:
            asked.append((arguments[-1], original(*arguments)))
            return asked[-1][1]

        monkeypatch.setattr(member.replica, "change_members", change_members)
        member._ticked_at -= 10.0
        await group.add("m2", learner=True)
    assert asked[0] == (True, False) and asked[-1] == (False, True)
    assert (False, False) in asked, "nor right after the tick, before it has listened"


async def test_a_learner_that_is_removed_hears_it_though_it_says_nothing(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        added = await group.add("m2", learner=True)
        await group.start("m2")
        await group.started("m2")
        await group.agree()
        await group.call("m1", "Cluster", "MemberRemove", etcd_pb2.MemberRemoveRequest(ID=added.ID))
        async with asyncio.timeout(15):
            with pytest.raises(Removed):
                await group.services["m2"].wait()


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_learner_of_several_that_is_removed_hears_it(tmp_path: Path, is_away: bool) -> None:
    async with running_group(tmp_path, 3) as group:
        await until(group.all_started)
        added = await group.add("m4", learner=True)
        await group.start("m4")
        await group.started("m4")
        if is_away:
            await group.stop("m4")
        await group.call_any("Cluster", "MemberRemove", etcd_pb2.MemberRemoveRequest(ID=added.ID))
        if is_away:
            await group.start("m4")
        async with asyncio.timeout(15):
            with pytest.raises(Removed):
                await group.services["m4"].wait()


def test_where_members_listen_is_not_what_they_tell() -> None:
    """All addresses, as in a container: the others know them by --initial-cluster."""
    listens = {"name": "m1", "listen_peer_urls": ["http://0.0.0.0:2380"]}
    named = ["m1=http://10.0.0.1:2380", "m2=http://10.0.0.2:2380"]
    assert Config(**listens, initial_cluster=named).peer_urls == ["http://10.0.0.1:2380"]
    advertised = ["http://10.0.0.9:2380"]
    assert Config(**listens, initial_cluster=named, initial_advertise_peer_urls=advertised).peer_urls == advertised
    assert Config(**listens).peer_urls == ["http://0.0.0.0:2380"]


async def test_a_member_that_would_tell_another_address_than_all_know_does_not_start(tmp_path: Path) -> None:
    client, peer, other = free_ports(3)
    config = Config(
        name="m1",
        data_dir=tmp_path / "m1",
        listen_client_urls=[f"http://127.0.0.1:{client}"],
        listen_peer_urls=[f"http://127.0.0.1:{peer}"],
        initial_advertise_peer_urls=[f"http://127.0.0.1:{other}"],
        initial_cluster=[f"m1=http://127.0.0.1:{peer}"],
    )
    with pytest.raises(ValueError, match="--initial-advertise-peer-urls has"):
        await Service(config).start()
    with pytest.raises(ValueError, match="is not of the form"):
        Config(name="m1", listen_peer_urls=[f"http://127.0.0.1:{peer}/"])
