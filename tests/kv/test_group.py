"""Three members in one process, over real sockets and files: agreement, failover, catching up, what clients see."""

import asyncio
from pathlib import Path

import pytest

from raykube.client.kv import Compacted, KvClient, UnknownOutcome
from raykube.kv.config import Config
from raykube.kv.core.mvcc.machine import Command
from raykube.kv.core.prover import Prover
from raykube.kv.core.raft.node import Node
from raykube.kv.service import Service
from raykube.pb import etcd_pb2
from raykube.pb.batch_pb2 import Write
from raykube.rpc import Code, RpcError
from tests.kit import pki
from tests.kit.ports import free_ports
from tests.kit.require import missing
from tests.kit.waiting import until
from tests.kv.group import Group, running_group


def put(key: str, value: str = "v", expected: int = -1, lease: int = 0) -> Write:
    return Write(key=key.encode(), value=value.encode(), expected_revision=expected, lease=lease)


async def write_through(client: KvClient, key: str, deadline_s: float = 20) -> None:
    """Writes until it is acknowledged: an unknown outcome is tried again, the key being this caller's own."""
    async with asyncio.timeout(deadline_s):
        while True:
            try:
                await client.write([put(key)])
                return
            except (UnknownOutcome, RpcError):
                await asyncio.sleep(0.02)


async def test_writes_compare_and_have_revisions_of_their_own(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        first, second, third = await group.client.write([put("/a", "1", 0), put("/a", "2", 0), put("/b")])
        assert first.applied
        assert not second.applied
        assert second.current.value == b"1"
        assert second.current.mod_revision == first.revision
        assert third.revision == first.revision + 1
        assert await group.client.current_revision() == third.revision
        (deleted,) = await group.client.write([Write(key=b"/a", expected_revision=first.revision)])
        assert deleted.applied
        assert (await group.client.range(b"/", b"0")).count == 1


async def test_many_callers_share_messages_and_each_gets_its_own_results(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        results = await asyncio.gather(
            *(group.client.write([put(f"/k/{n}", f"{n}.{i}", -1) for i in range(3)]) for n in range(300))
        )
        revisions = [result.revision for answer in results for result in answer]
        assert len(set(revisions)) == 900
        for number, answer in enumerate(results):
            found = await group.client.range(b"/k/%d" % number) if number % 50 == 0 else None
            if found is not None:
                assert found.kvs[0].value == b"%d.2" % number
                assert found.kvs[0].mod_revision == answer[-1].revision
        await group.agree()


async def test_one_caller_s_missing_lease_is_not_another_s_error(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        good, bad = await asyncio.gather(
            group.client.write([put("/good")]),
            group.client.write([put("/bad", lease=99)]),
            return_exceptions=True,
        )
        assert not isinstance(good, BaseException)
        assert good[0].applied
        assert isinstance(bad, RpcError)
        assert bad.code is Code.NOT_FOUND
        assert (await group.client.range(b"/bad")).count == 0


async def test_every_member_serves_linearizable_reads(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        clients = [KvClient([endpoint]) for endpoint in group.endpoints]
        try:
            for number in range(10):
                (result,) = await clients[number % 3].write([put("/x", str(number))])
                for client in clients:
                    assert (await client.range(b"/x")).kvs[0].value == str(number).encode()
                    assert await client.current_revision() >= result.revision
        finally:
            for client in clients:
                await client.close()


async def test_the_leader_dies_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        for round_number in range(3):
            for number in range(20):
                await write_through(group.client, f"/r{round_number}/{number}")
            leader = await group.leader()
            await group.crash(leader)
            await write_through(group.client, f"/after/{round_number}")
            await group.start(leader)
        found = await group.client.range(b"/", b"0")
        assert found.count == 63
        await group.agree()


async def test_a_put_is_answered_with_who_answers_and_when(tmp_path: Path) -> None:
    """Also the plain one, whose answer is put together from less."""
    async with running_group(tmp_path, 3, election_timeout=2000) as group:
        for name in group.names:
            await group.started(name)
        terms: list[int] = []
        while len(terms) < 2:
            leader = await group.leader()
            for name, service in group.services.items():
                member = service.member
                assert member is not None
                for request in (
                    etcd_pb2.PutRequest(key=b"/a", value=b"v"),
                    etcd_pb2.PutRequest(key=b"/a", value=b"v", prev_kv=True),
                ):
                    response = await group.call(name, "KV", "Put", request)
                    assert response.header == etcd_pb2.ResponseHeader(
                        cluster_id=member.cluster_id,
                        member_id=member.id,
                        revision=member.store.revision,
                        raft_term=member.replica.node.term,
                    )
                    assert response.HasField("prev_kv") == request.prev_kv
            terms.append(response.header.raft_term)
            if len(terms) < 2:
                heir = next(group.member_id(name) for name in group.names if name != leader)
                await group.call(leader, "Maintenance", "MoveLeader", etcd_pb2.MoveLeaderRequest(targetID=heir))
        assert terms[1] > terms[0]


async def test_followers_hear_of_a_commit_that_nobody_waits_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, and not with the next heartbeat; all of them, also whoever was the last to have the entry."""
    async with running_group(tmp_path, 3, election_timeout=2000) as group:
        for name in group.names:
            await group.started(name)  # they wait for what they say of themselves
        name = await group.leader()
        leader = group.services[name].member
        last = next(service.member for other, service in group.services.items() if other != name)
        assert leader is not None and last is not None
        await group.agree()
        disk, loop = last._disk, asyncio.get_running_loop()
        submit = disk.submit
        monkeypatch.setattr(disk, "submit", lambda job, then: loop.call_later(0.1, submit, job, then))
        monkeypatch.setattr(Node, "_broadcast_heartbeat", lambda _: None)
        monkeypatch.setattr(Prover, "tick", lambda *_: None)  # its entries would tell them
        term = leader.replica.node.term
        await leader.propose(Command.PUT, etcd_pb2.PutRequest(key=b"/a", value=b"v").SerializeToString())
        await group.agree()
        assert leader.store.get(b"/a") is not None
        assert leader.replica.node.term == term, "they heard of it from a new leader"


async def test_stopping_hands_leadership_over(tmp_path: Path) -> None:
    # A time-out that a busy machine does not reach between the two looks.
    async with running_group(tmp_path, 3, election_timeout=2000) as group:
        leader = await group.leader()
        term = group.services[leader].member.replica.node.term
        await group.stop(leader)
        successor = await group.leader()
        # Handed over: exactly one term later, with no election that failed.
        assert group.services[successor].member.replica.node.term == term + 1
        assert (await group.client.write([put("/a")]))[0].applied


async def test_a_member_far_behind_catches_up_by_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raykube.kv.snapshotter.ENTRIES_KEPT", 5)
    async with running_group(tmp_path, 3, snapshot_count=20) as group:
        leader = await group.leader()
        laggard = next(name for name in group.names if name != leader)
        await group.crash(laggard)
        for number in range(100):
            await group.client.write([put(f"/k/{number}")])
        await until(lambda: group.services[leader].member.replica.node.log.base > 50)
        await group.start(laggard)
        await group.agree()
        member = group.services[laggard].member
        assert member.replica.node.snapshot.index > 50
        # And once more from its own disk.
        await group.stop(laggard)
        await group.start(laggard)
        await group.agree()


async def test_all_stop_and_come_back_with_everything(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3, snapshot_count=30) as group:
        for number in range(80):
            await group.client.write([put(f"/k/{number}", str(number))])
        before = await group.agree()
        for name in group.names:
            await group.stop(name)
        await group.start()
        await group.leader()
        found = await group.client.range(b"/k/", b"/k0")
        assert {kv.key: kv.value for kv in found.kvs} == {b"/k/%d" % n: b"%d" % n for n in range(80)}
        assert await group.agree() == before


async def test_a_watch_goes_on_through_failures(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        (first,) = await group.client.write([put("/w/start")])
        seen: list[int] = []

        async def follow() -> None:
            async for batch in group.client.watch(b"/w/", b"/w0", first.revision):
                seen.extend(event.kv.mod_revision for event in batch.events)

        follower = asyncio.create_task(follow())
        for name in group.names:
            for number in range(10):
                await write_through(group.client, f"/w/{name}/{number}")
            await group.crash(name)
            await write_through(group.client, f"/w/{name}/down")
            await group.start(name)
        last = (await group.client.write([put("/w/end")]))[0].revision
        await until(lambda: seen and seen[-1] == last, 15)
        follower.cancel()
        history = [kv.mod_revision for kv in (await group.client.range(b"/w/", b"/w0")).kvs]
        assert seen == sorted(set(seen)), "an event came twice or out of order"
        assert set(history) <= set(seen), "an event is missing"


async def test_a_watch_of_compacted_events_says_so(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        for number in range(5):
            await group.client.write([put("/a", str(number))])
        await group.client.compact(5)
        with pytest.raises(Compacted) as error:
            async for _ in group.client.watch(b"/a", start_revision=2):
                pass
        assert error.value.revision == 5
        async for batch in group.client.watch(b"/a", start_revision=5, prev_kv=True):
            if batch.events:
                assert [event.kv.value for event in batch.events] == [b"3", b"4"]
                assert batch.events[1].prev_kv.value == b"3"
                break


async def test_an_idle_watch_survives_compaction(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        watch = group.client.watch(b"/idle")
        await anext(watch)
        for number in range(10):
            last = await group.client.write([put("/busy", str(number))])
        await group.client.compact(last[0].revision)
        await group.client.write([put("/idle")])
        assert [event.kv.key for event in (await anext(watch)).events] == [b"/idle"]
        await watch.aclose()


async def test_automatic_compaction_by_revision(tmp_path: Path) -> None:
    flags = {"auto_compaction_mode": "revision", "auto_compaction_retention": "10"}
    async with running_group(tmp_path, 1, **flags) as group:
        store = group.services["m1"].member.store
        group.services["m1"].member.replica._compactor._next = 0.0
        for number in range(40):
            await group.client.write([put("/a", str(number))])
        group.services["m1"].member.replica._compactor._next = 0.0
        await until(lambda: store.compact_revision > 0)
        await until(lambda: store.events[0].mod >= store.compact_revision)
        assert store.revision - store.compact_revision >= 10


async def test_leases_run_out_by_the_leader_s_clock(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        short, kept = await group.client.grant(1), await group.client.grant(1)
        await group.client.write([put("/short", lease=short), put("/kept", lease=kept)])
        keeper = asyncio.create_task(group.client.keep_alive_forever(kept, 1))
        async for batch in group.client.watch(b"/short", start_revision=2):
            if batch.events and batch.events[-1].type == 1:
                break
        assert (await group.client.range(b"/kept")).count == 1
        assert await group.client.keep_alive(short) == 0
        keeper.cancel()
        await group.client.revoke(kept)
        await group.client.revoke(kept)
        assert (await group.client.range(b"/", b"0")).count == 0
        await group.agree()


async def test_without_a_quorum_nothing_is_acknowledged(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        leader = await group.leader()
        for name in group.names:
            if name != leader:
                await group.crash(name)
        with pytest.raises((UnknownOutcome, RpcError)):
            await group.client.write([put("/lonely")], timeout_s=1.5)
        with pytest.raises(RpcError):
            await group.client.current_revision(timeout_s=0.5)
        await until(lambda: group.services[leader].status()["role"] == "follower", 10, "it steps down")
        assert group.services[leader].status()["healthy"] is False


async def test_without_a_quorum_a_transaction_of_serializable_ranges_is_answered(tmp_path: Path) -> None:
    async with running_group(tmp_path, 3) as group:
        await group.client.write([put("/a", "1")])
        await group.agree()
        for name in ("m1", "m2"):
            await group.crash(name)

        def read(serializable: bool) -> etcd_pb2.TxnRequest:
            get = etcd_pb2.RangeRequest(key=b"/a", serializable=serializable)
            return etcd_pb2.TxnRequest(
                compare=[etcd_pb2.Compare(key=b"/a", target=etcd_pb2.Compare.VALUE, value=b"1")],
                success=[etcd_pb2.RequestOp(request_range=get)],
            )

        found = await group.call("m3", "KV", "Txn", read(True))
        assert found.responses[0].response_range.kvs[0].value == b"1"
        alone = KvClient([f"127.0.0.1:{group.ports['m3']}"])
        try:
            with pytest.raises(RpcError) as error:
                await alone.txn(read(False), 0.5)
        finally:
            await alone.close()
        assert error.value.code is Code.DEADLINE_EXCEEDED
        future = read(True)
        future.success[0].request_range.revision = 99
        with pytest.raises(RpcError, match="required revision is a future revision"):
            await group.call("m3", "KV", "Txn", future)


async def test_a_full_store_refuses_and_recovers_by_itself(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1, quota_backend_bytes=20_000, auto_compaction_retention="0") as group:
        with pytest.raises(RpcError) as error:
            for _ in range(100):
                await group.client.write([put("/big", "x" * 1000)])
        assert error.value.code is Code.RESOURCE_EXHAUSTED
        await group.client.compact(await group.client.current_revision())
        async with asyncio.timeout(5):
            while True:
                try:
                    await group.client.write([put("/big", "y")])
                    break
                except RpcError:
                    await asyncio.sleep(0.02)


async def test_a_data_directory_is_used_once_and_by_its_own_cluster(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        config = group.configs["m1"]
        with pytest.raises(OSError, match="another member uses"):
            await Service(config).start()
        await group.stop("m1")
        other = config.model_copy(update={"initial_cluster_token": "another"})
        with pytest.raises(ValueError, match="belongs to"):
            await Service(other).start()
        # Neither attempt changed anything.
        await group.start("m1")


async def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        config = group.configs["m1"].model_copy(update={"data_dir": tmp_path / "other"})
        with pytest.raises(OSError, match="in use"):
            await Service(config).start()


async def _answers(address: str) -> bool:
    client = KvClient([address])
    try:
        return await client.current_revision(timeout_s=5) > 0
    finally:
        await client.close()


@pytest.mark.parametrize("has_both", [False, True])
async def test_all_addresses_are_those_of_ipv4_too(tmp_path: Path, has_both: bool) -> None:
    if not Path("/proc/sys/net/ipv6").exists() or Path("/proc/sys/net/ipv6/conf/lo/disable_ipv6").read_text() != "0\n":
        missing("needs IPv6")
    group = Group(tmp_path, 1)
    port = group.ports["m1"]
    (metrics,) = free_ports(1)
    group.configs["m1"] = group.configs["m1"].model_copy(
        update={
            "listen_client_urls": [f"http://[::]:{port}", *([f"http://0.0.0.0:{port}"] if has_both else [])],
            "listen_metrics_urls": [f"http://[::]:{metrics}"],
            "advertise_client_urls": [f"http://127.0.0.1:{port}"],
        }
    )
    try:
        await group.start()
        await group.leader()
        assert await _answers(f"127.0.0.1:{port}")
        assert await _answers(f"[::1]:{port}")
        addresses = group.services["m1"].status()["addresses"]
        assert isinstance(addresses, dict)
        assert (addresses["client"], addresses["metrics"]) == (f"[::]:{port}", f"[::]:{metrics}")
        _, writer = await asyncio.open_connection("127.0.0.1", metrics)
        writer.close()
    finally:
        await group.client.close()
        await group.stop("m1")


async def test_everything_over_tls_and_strangers_are_refused(tmp_path: Path) -> None:
    server, client = pki.tls("m1", server=True), pki.tls("kube-apiserver-etcd-client")
    names = [f"m{number}" for number in range(1, 4)]
    ports = free_ports(6)
    cluster = [f"{name}=https://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)]
    services = [
        Service(
            Config(
                name=name,
                data_dir=tmp_path / name,
                listen_peer_urls=[f"https://127.0.0.1:{ports[number]}"],
                listen_client_urls=[f"https://127.0.0.1:{ports[number + 3]}"],
                initial_cluster=cluster,
                cert_file=server.cert_file,
                key_file=server.key_file,
                trusted_ca_file=server.ca_file,
                peer_cert_file=server.cert_file,
                peer_key_file=server.key_file,
                peer_trusted_ca_file=server.ca_file,
            )
        )
        for number, name in enumerate(names)
    ]
    endpoints = [f"https://127.0.0.1:{port}" for port in ports[3:]]
    trusted, plain = KvClient(endpoints, client), KvClient(endpoints)
    try:
        for service in services:
            await service.start()
        assert (await trusted.write([put("/a")]))[0].applied
        with pytest.raises(RpcError):
            await plain.range(b"/a", timeout_s=1)
    finally:
        await trusted.close()
        await plain.close()
        for service in services:
            await service.stop()
