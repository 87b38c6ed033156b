"""With a log, a member needs no flags that say which cluster it is of; those it gets must agree with the log."""

import shutil
from pathlib import Path

import pytest

from raykube.kv.config import Config
from raykube.kv.core.identity import address_of, is_same_place, parse_initial_cluster
from raykube.kv.service import Service
from raykube.pb.batch_pb2 import Write
from tests.kv.group import Group, running_group

pytestmark = pytest.mark.integration


def without(config: Config, *names: str) -> Config:
    """The same flags but for those."""
    given = {name: getattr(config, name) for name in config.model_fields_set if name not in names}
    return Config(**given)


async def restart(group: Group, name: str, config: Config) -> None:
    await group.stop(name)
    group.configs[name] = config
    await group.start(name)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_log_says_it_all(tmp_path: Path, count: int) -> None:
    async with running_group(tmp_path, count, initial_cluster_token="mine") as group:
        await group.client.write([Write(key=b"a", value=b"1", expected_revision=-1)])
        for name in group.names:
            await restart(group, name, without(group.configs[name], "initial_cluster", "initial_cluster_token"))
        await group.leader()
        found = await group.client.range(b"a")
        assert found.kvs[0].value == b"1"
        members = {member.name: list(member.peerURLs) for member in await group.members()}
        assert members == {name: [f"http://127.0.0.1:{group.peers[name]}"] for name in group.names}


async def test_what_contradicts_the_log_is_refused(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1, initial_cluster_token="mine") as group:
        await group.stop("m1")
        config = without(group.configs["m1"], "initial_cluster", "initial_cluster_token")
        other = Config(**{name: getattr(config, name) for name in config.model_fields_set}, initial_cluster_token="x")
        with pytest.raises(ValueError, match=r"belongs to member .*--initial-cluster-token"):
            await Service(other).start()
        await group.start("m1")


async def test_a_start_that_is_refused_for_its_lost_log_changes_nothing(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1, snapshot_count=5) as group:
        for number in range(40):
            await group.client.write([Write(key=b"a", value=b"%d" % number, expected_revision=-1)])
        await group.stop("m1")
        folder = tmp_path / "m1"
        (folder / "wal").rename(tmp_path / "wal")
        (folder / "wal").mkdir()
        (folder / "wal" / "a copy.wal").touch()  # is no log
        before = sorted(path.name for path in folder.rglob("*"))
        assert any(name.endswith(".snap") for name in before)
        with pytest.raises(ValueError, match="has snapshots and no log"):
            await Service(group.configs["m1"]).start()
        assert sorted(path.name for path in folder.rglob("*")) == before
        shutil.rmtree(folder / "wal")
        (tmp_path / "wal").rename(folder / "wal")
        await group.start("m1")
        found = await group.client.range(b"a")
        assert found.kvs[0].value == b"39"


def test_addresses_of_an_old_log_may_have_a_slash_and_flags_may_not() -> None:
    """etcd's do not; a log of ours may have been written with one, and must be read."""
    assert address_of("http://10.0.0.1:2380/") == address_of("http://10.0.0.1:2380")
    assert is_same_place(["http://10.0.0.1:2380/"], ["http://10.0.0.1:2380"])
    with pytest.raises(ValueError, match="has a path"):
        parse_initial_cluster(["m1=http://10.0.0.1:2380/"], "token")
