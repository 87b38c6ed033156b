"""Backups: saved from a running member, looked at, and made into a new cluster."""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from raykube.client.kv import KvClient
from raykube.kv.backup_files import open_backup
from raykube.kv.config import Config
from raykube.kv.core import backup, snapshot_codec
from raykube.kv.core.mvcc import image
from raykube.kv.core.mvcc.store import Store
from raykube.kv.core.raft.membership import Membership
from raykube.kv.core.raft.messages import Snapshot
from raykube.kv.service import Service
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from tests.kit import pki
from tests.kit.ports import free_ports
from tests.kit.require import require_program
from tests.kit.waiting import until
from tests.kv.group import Group, running_group

pytestmark = pytest.mark.integration


async def run(*command: str, status: int = 0) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, env={"ETCDCTL_API": "3"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == status, output.decode()
    return output.decode()


async def snapshot(*arguments: str, status: int = 0) -> str:
    return await run(sys.executable, "-m", "raykube", "kv", "snapshot", *arguments, status=status)


async def fill(group: Group) -> dict[bytes, tuple[bytes, int]]:
    """Keys with a history, a lease, a compaction; returns key → (value, mod revision)."""
    for number in range(30):
        await group.client.write([Write(key=b"/k/%d" % (number % 10), value=b"v%d" % number, expected_revision=-1)])
    await group.client.call("Lease", "LeaseGrant", etcd_pb2.LeaseGrantRequest(ID=77, TTL=3600))
    await group.client.call("KV", "Put", etcd_pb2.PutRequest(key=b"/leased", value=b"1", lease=77))
    await group.client.call("KV", "DeleteRange", etcd_pb2.DeleteRangeRequest(key=b"/k/3"))
    await group.client.call("KV", "Compact", etcd_pb2.CompactionRequest(revision=20))
    await group.client.write([Write(key=b"/big", value=b"x" * 300_000, expected_revision=-1)])
    await group.agree()
    return await content(group.client)


async def content(client: KvClient) -> dict[bytes, tuple[bytes, int]]:
    answer = await client.range(b"/", b"0", timeout_s=20)
    return {kv.key: (kv.value, kv.mod_revision) for kv in answer.kvs}


async def restore(file: Path, folder: Path, count: int, *flags: str) -> dict[str, Config]:
    """Restores a backup for each of `count` new members; returns their configurations."""
    ports = free_ports(2 * count)
    names = [f"n{number}" for number in range(1, count + 1)]
    peers = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports[:count], strict=True)}
    cluster = [f"{name}={url}" for name, url in peers.items()]
    configs = {}
    for name, port in zip(names, ports[count:], strict=True):
        await snapshot(
            "restore", str(file), f"--name={name}", f"--data-dir={folder / name}",
            f"--initial-cluster={','.join(cluster)}", f"--initial-advertise-peer-urls={peers[name]}",
            "--initial-cluster-token=restored", *flags,
        )  # fmt: skip
        configs[name] = Config(
            name=name,
            data_dir=folder / name,
            listen_client_urls=[f"http://127.0.0.1:{port}"],
            listen_peer_urls=[peers[name]],
            initial_cluster=cluster,
            initial_cluster_token="restored",
            heartbeat_interval=50,
            election_timeout=500,
        )
    return configs


class Restored:
    """Members of a restored cluster, started and stopped."""

    def __init__(self, configs: dict[str, Config]) -> None:
        self.services = [Service(config) for config in configs.values()]
        urls = [config.listen_client_urls[0].removeprefix("http://") for config in configs.values()]
        self.client = KvClient(urls)

    async def __aenter__(self) -> "Restored":
        await asyncio.gather(*(service.start() for service in self.services))
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.client.close()
        await asyncio.gather(*(service.stop() for service in self.services))


async def test_what_etcdctl_saves_becomes_a_new_cluster(tmp_path: Path) -> None:
    etcdctl = require_program("etcdctl")
    file = tmp_path / "backup.db"
    async with running_group(tmp_path, 1) as group:
        kept = await fill(group)
        revision = await group.client.current_revision()
        output = await run(etcdctl, "--endpoints", group.endpoints[0], "snapshot", "save", str(file))
        assert "Snapshot saved at" in output
        old = group.services["m1"].member
        await group.client.write([Write(key=b"/later", value=b"1", expected_revision=-1)])
    configs = await restore(file, tmp_path, 3)
    async with Restored(configs) as new:
        assert await content(new.client) == kept
        assert await new.client.current_revision() == revision
        assert {service.member.cluster_id for service in new.services} != {old.cluster_id}
        assert old.id not in {service.member.id for service in new.services}
        past = await new.client.call("KV", "Range", etcd_pb2.RangeRequest(key=b"/k/5", revision=21))
        assert [kv.value for kv in past.kvs] == [b"v15"]
        leases = await new.client.call("Lease", "LeaseLeases", etcd_pb2.LeaseLeasesRequest())
        assert [lease.ID for lease in leases.leases] == [77]
        await new.client.call("Lease", "LeaseRevoke", etcd_pb2.LeaseRevokeRequest(ID=77))
        assert b"/leased" not in await content(new.client)
        await until(lambda: len({service.member.replica.applied for service in new.services}) == 1)
        assert len({service.member.store.hash() for service in new.services}) == 1
        # The members know each other by their new names only.
        members = (await new.client.call("Cluster", "MemberList", etcd_pb2.MemberListRequest())).members
        assert sorted(member.name for member in members) == ["n1", "n2", "n3"]
    # Another cluster's flags do not open it.
    with pytest.raises(ValueError, match="belongs to"):
        await Service(configs["n1"].model_copy(update={"initial_cluster_token": "other"})).start()
    other = configs["n1"].model_copy(update={"data_dir": configs["n2"].data_dir})
    with pytest.raises(ValueError, match="belongs to member n2"):
        await Service(other).start()


async def test_a_restore_under_the_old_flags_is_another_cluster(tmp_path: Path) -> None:
    """Ids that come back to life with less than they had would be believed: not even the same flags may give them."""
    file = tmp_path / "backup"
    async with running_group(tmp_path, 1) as group:
        config, old = group.configs["m1"], group.services["m1"].member
        await snapshot("save", str(file), f"--endpoints={group.endpoints[0]}")
        await group.stop("m1")
        restored = config.model_copy(update={"data_dir": tmp_path / "again"})
        await snapshot(
            "restore", str(file), "--name=m1", f"--data-dir={restored.data_dir}",
            f"--initial-cluster={config.initial_cluster[0]}",
            f"--initial-advertise-peer-urls={config.listen_peer_urls[0]}",
        )  # fmt: skip
        service = Service(restored)
        await service.start()
        try:
            assert service.member.cluster_id != old.cluster_id
            assert service.member.id != old.id
        finally:
            await service.stop()


async def test_save_status_and_restore_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    async with running_group(tmp_path, 1) as group:
        kept = await fill(group)
        saved = await snapshot("save", str(file), f"--endpoints=http://{group.endpoints[0]}")
        assert saved == f"Snapshot saved at {file}\n"
        facts = json.loads(await snapshot("status", str(file), "-w", "json"))
        assert facts["revision"] == await group.client.current_revision()
        hashed = await group.client.call("Maintenance", "Hash", etcd_pb2.HashRequest())
        assert facts["hash"] == hashed.hash
        assert facts["totalSize"] == file.stat().st_size
        numbers = rf"{facts['hash']:x}, {facts['revision']}, {facts['totalKey']}, [0-9.]+ k?B\n"
        assert re.fullmatch(numbers, await snapshot("status", str(file)))
        table = (await snapshot("status", str(file), "-w", "table")).splitlines()
        assert len({len(line) for line in table}) == 1
        assert [cell.strip() for cell in table[1].split("|")[1:-1]] == ["HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"]
        assert table[3].split("|")[2].strip() == str(facts["revision"])
        fields = await snapshot("status", str(file), "-w", "fields")
        assert f'"Revision" : {facts["revision"]}\n' in fields
    (tmp_path / "n1").mkdir()  # as etcdctl, which takes one that is there and empty
    configs = await restore(file, tmp_path, 1, "--bump-revision=1000", "--mark-compacted")
    async with Restored(configs) as new:
        assert await content(new.client) == kept
        revision = await new.client.current_revision()
        assert revision == facts["revision"] + 1000
        with pytest.raises(Exception, match="has been compacted"):
            await new.client.call("KV", "Range", etcd_pb2.RangeRequest(key=b"/k/5", revision=revision - 1))
        results = await new.client.write([Write(key=b"/new", value=b"1", expected_revision=0)])
        assert results[0].revision == revision + 1
    # It is there now.
    refused = await snapshot("restore", str(file), f"--data-dir={configs['n1'].data_dir}", status=1)
    assert "exists" in refused
    assert len(refused.splitlines()) == 1


async def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "backup"
    async with running_group(tmp_path, 1, snapshot_count=5) as group:
        await fill(group)
        await snapshot("save", str(file), f"--endpoints={group.endpoints[0]}")
        await until(lambda: any((tmp_path / "m1" / "snap").glob("*.snap")))
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content_, message in (
        (bytes(flipped), "damaged"),
        (whole[:-1], "no checksum"),
        (whole[: len(whole) // 2], "no checksum"),
        (whole[-32:], "damaged"),
        (b"", "no checksum"),
    ):
        file.write_bytes(content_)
        for command in (["status", str(file)], ["restore", str(file), f"--data-dir={tmp_path}/new"]):
            refused = await snapshot(*command, status=1)
            assert message in refused
            assert len(refused.splitlines()) == 1
    assert not list(tmp_path.glob("new*"))
    # A file of a member's own folder has no sum, and says so itself whether it is whole.
    own = max((tmp_path / "m1" / "snap").glob("*.snap"))
    assert "no checksum" in await snapshot("restore", str(own), f"--data-dir={tmp_path}/new", status=1)
    await snapshot("restore", str(own), f"--data-dir={tmp_path}/new", "--skip-hash-check")
    damaged = bytearray(own.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    own.write_bytes(damaged)
    refused = await snapshot("restore", str(own), f"--data-dir={tmp_path}/new2", "--skip-hash-check", status=1)
    assert "damaged" in refused


async def test_save_over_tls(tmp_path: Path) -> None:
    server, client = pki.tls("m1", server=True), pki.tls("backup")
    port, peer = free_ports(2)
    config = Config(
        name="m1",
        data_dir=tmp_path / "m1",
        listen_client_urls=[f"https://127.0.0.1:{port}"],
        listen_peer_urls=[f"http://127.0.0.1:{peer}"],
        cert_file=server.cert_file,
        key_file=server.key_file,
        trusted_ca_file=server.ca_file,
    )
    service = Service(config)
    await service.start()
    try:
        file, endpoint = tmp_path / "backup", f"--endpoints=https://127.0.0.1:{port}"
        certificates = [f"--cacert={client.ca_file}", f"--cert={client.cert_file}", f"--key={client.key_file}"]
        await snapshot("save", str(file), endpoint, *certificates)
        assert "damaged" not in await snapshot("status", str(file))
        assert "go together" in await snapshot("save", str(file), endpoint, status=2)
        assert "go together" in await snapshot("save", str(file), endpoint, certificates[0], status=2)
    finally:
        await service.stop()


async def test_nothing_is_left_of_a_save_that_failed(tmp_path: Path) -> None:
    refused = await snapshot("save", str(tmp_path / "backup"), f"--endpoints=127.0.0.1:{free_ports(1)[0]}", status=1)
    assert "no snapshot of" in refused
    assert len(refused.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rest", [0, 32, 100])
def test_without_a_sum_a_file_is_known_by_what_it_says(tmp_path: Path, rest: int) -> None:
    """A member's own file, of a size that a backup may have too; and a backup that lost its sum."""
    store = Store()

    def encoded() -> bytes:
        return b"".join(snapshot_codec.encode(Snapshot(7, 2, Membership.of(1)), 5, image.capture(store).chunks()))

    raw = tmp_path / "raw"
    for padding in range(512):
        store = Store()
        store.put_alone(b"a", bytes(padding), 0)
        if len(encoded()) % 512 == rest:
            break
    raw.write_bytes(encoded())
    assert raw.stat().st_size % 512 == rest
    with pytest.raises(ValueError, match="checksum"):
        open_backup(raw)
    assert open_backup(raw, skip_hash_check=True).snapshot.index == 7
    cut = tmp_path / "cut"
    cut.write_bytes(b"".join(backup.wrap([encoded()], len(encoded())))[:-32])
    found = open_backup(cut, skip_hash_check=True)
    assert found.snapshot_bytes == len(encoded())
    with pytest.raises(ValueError, match="checksum"):
        open_backup(cut)
