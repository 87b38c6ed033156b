"""etcd's HTTP on the clients' port: what the real one says to the same requests, and who is let in."""

import asyncio
import base64
import json
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from google.protobuf import json_format

from raykube.kv.config import Config
from raykube.kv.core.identity import address_of
from raykube.kv.service import Service
from raykube.pb import etcd_pb2
from raykube.rpc import RpcError, http_connections
from raykube.rpc.channel import Channel
from tests.kit import pki
from tests.kit.etcd import real_etcd
from tests.kit.ports import free_ports
from tests.kit.waiting import until
from tests.kv.group import running_group

pytestmark = pytest.mark.integration
KV = etcd_pb2.DESCRIPTOR.services_by_name["KV"]
TIMEOUT_S = 20


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def key(text: str, **fields: Any) -> dict[str, Any]:
    return {"key": b64(text), **fields}


COMPARE = {"key": b64("a"), "target": "VERSION", "result": "EQUAL", "version": "1"}
# (path, body), in this order: later ones build on earlier ones.
REQUESTS: list[tuple[str, Any]] = [
    ("kv/put", key("a", value=b64("1"))),
    ("kv/range", key("a")),
    ("kv/range", {}),
    ("kv/range", ""),
    ("kv/range", key("a", unknown=7)),
    ("kv/range", key("a", keysOnly=True)),
    ("kv/range", key("a", keys_only=True, limit="1", sort_order="DESCEND")),
    ("kv/put", key("b", value=b64("2"), prev_kv=True)),
    ("kv/put", key("b", value=b64("3"), prev_kv=True)),
    ("kv/put", key("b", lease="99")),
    ("kv/txn", {"compare": [COMPARE], "success": [{"request_range": key("a")}, {"request_put": key("c")}]}),
    ("kv/txn", {"compare": [COMPARE | {"version": 7}], "failure": [{"request_delete_range": key("c")}]}),
    ("kv/deleterange", key("b", prev_kv=True)),
    ("kv/compaction", {"revision": "99"}),
    ("kv/compaction", {"revision": "3"}),
    ("kv/range", key("a", revision=2)),
    ("lease/grant", {"TTL": 600, "ID": 7}),
    ("lease/grant", {"TTL": 600, "ID": 7}),
    ("lease/keepalive", {"ID": "7"}),
    ("lease/keepalive", {"ID": "8"}),
    ("kv/put", key("leased", lease=7)),
    ("lease/leases", {}),
    ("kv/lease/leases", {}),
    ("kv/lease/revoke", {"ID": 9}),
    ("lease/revoke", {"ID": 7}),
    ("lease/timetolive", {"ID": 7}),
    ("maintenance/transfer-leadership", {"targetID": "5"}),
    ("cluster/member/remove", {"ID": "5"}),
    ("cluster/member/promote", {"ID": "5"}),
    ("lease/grant", {"TTL": 600, "ID": 8}),
    ("lock/lock", {"name": b64("job"), "lease": 8}),
    ("lock/lock", {"name": b64("job"), "lease": 99}),
    ("election/leader", {"name": b64("job")}),
    ("lock/unlock", key("job/8")),
    ("election/leader", {"name": b64("job")}),
    ("election/campaign", {"name": b64("job"), "lease": 8, "value": b64("me")}),
    ("election/proclaim", {"value": b64("you")}),
    ("election/proclaim", {"leader": {"key": b64("job/8"), "rev": 1}, "value": b64("you")}),
    ("election/resign", {"leader": {"key": b64("job/8"), "rev": 1}}),
    ("maintenance/alarm", {}),
    ("auth/status", {}),
    ("nope", {}),
]
NO_REQUESTS = ["nope", "{", "[]", '"a"', "7", "\xff", "[" * 50_000]
NO_RANGES = [
    '{"key": 7}',
    '{"key": "no base 64!"}',
    '{"key": "YQ="}',
    '{"key": "YQ==", "limit": "x"}',
    '{"key": "YQ==", "sort_order": "UP"}',
]


async def post(session: aiohttp.ClientSession, path: str, body: Any) -> tuple[int, Any]:
    """The status, and the body without what differs between any two clusters."""
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    async with session.post(f"/v3/{path}", data=data) as response:
        text = await response.text()
        if response.content_type != "application/json":
            return response.status, text
        return response.status, [without_ids(json.loads(line)) for line in text.splitlines()]


def without_ids(found: Any) -> Any:
    if isinstance(found, dict):
        hidden = ("cluster_id", "member_id", "raft_term")
        return {name: without_ids(value) for name, value in found.items() if name not in hidden}
    return [without_ids(each) for each in found] if isinstance(found, list) else found


def client(address: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(f"http://{address}", timeout=aiohttp.ClientTimeout(TIMEOUT_S))


@asynccontextmanager
async def member(folder: Path, **flags: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with running_group(folder, 1, **flags) as group, client(group.endpoints[0]) as session:
        yield session


async def test_it_answers_as_etcd_does(tmp_path: Path) -> None:
    async with real_etcd(tmp_path) as address, member(tmp_path) as ours, client(address) as etcd:
        for path, body in REQUESTS:
            assert await post(ours, path, body) == await post(etcd, path, body), (path, body)
        for path in ("/health", "/nope", "/", "/v3/kv/range", "/v3/watch"):
            async with ours.get(path) as mine, etcd.get(path) as theirs:
                assert (mine.status, await mine.text()) == (theirs.status, await theirs.text())
        async with ours.get("/version") as mine, etcd.get("/version") as theirs:
            assert (await mine.json()).keys() == (await theirs.json()).keys()
            assert (await mine.json())["etcdcluster"] == (await theirs.json())["etcdcluster"]
        async with ours.get("/metrics") as mine:
            assert "etcd_server_has_leader 1" in await mine.text()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *(("kv/range", body) for body in (*NO_REQUESTS, *NO_RANGES)),
        *(("lease/keepalive", body) for body in NO_REQUESTS),
        ("kv/txn", '{"success": [{"request_put": {"key": "no base 64!"}}]}'),
        ("kv/txn", '{"compare": [{"key": "YQ==", "target": "VERSON", "version": "0"}]}'),
    ],
)
async def test_what_is_no_request_is_refused(tmp_path: Path, path: str, body: str) -> None:
    async with member(tmp_path) as session:
        status, (told,) = await post(session, path, body.encode("latin-1"))
        assert (status, told["code"]) == (400, 3)
        assert told["error"] == told["message"] != ""


async def test_a_watch_is_lines_and_ends_with_its_client(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        watches = group.services["m1"]._watch
        assert watches is not None
        async with aiohttp.ClientSession(f"http://{group.endpoints[0]}") as session:
            asked = json.dumps({"create_request": key("a")}) + json.dumps({"create_request": key("b")})
            async with session.post("/v3/watch", data=asked) as response:
                lines = [json.loads(await response.content.readline())["result"] for _ in range(2)]
                assert [(line["created"], line.get("watch_id")) for line in lines] == [(True, None), (True, "1")]
                await post(session, "kv/put", key("b", value=b64("1")))
                line = json.loads(await response.content.readline())["result"]
                assert line["watch_id"] == "1"
                assert line["events"][0]["kv"]["value"] == b64("1")
        await until(lambda: not watches._open, 10, "its client is gone")


async def test_a_snapshot_comes_in_pieces(tmp_path: Path) -> None:
    async with member(tmp_path) as session:
        await post(session, "kv/put", key("a", value=b64("x" * 1_000_000)))
        async with session.post("/v3/maintenance/snapshot", data="{}") as response:
            lines = [json.loads(line)["result"] for line in (await response.text()).splitlines()]
        whole = b"".join(base64.b64decode(line.get("blob", "")) for line in lines)
        assert b"x" * 1_000_000 in whole


async def test_a_stop_ends_what_is_under_way_and_who_has_said_nothing(tmp_path: Path) -> None:
    async with running_group(tmp_path, 1) as group:
        host, port = group.endpoints[0].split(":")
        silent = await asyncio.open_connection(host, int(port))
        half = await asyncio.open_connection(host, int(port))
        half[1].write(b"PRI * HT")
        async with (
            aiohttp.ClientSession(f"http://{group.endpoints[0]}") as session,
            session.post("/v3/watch", data=json.dumps({"create_request": key("a")})) as response,
        ):
            await response.content.readline()
            async with asyncio.timeout(10):
                await group.stop("m1")
                told = json.loads(await response.content.readline())["error"]
                assert (told["grpc_code"], told["http_code"]) == (14, 503)
                for reader, writer in (silent, half):
                    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                        await reader.readexactly(1)
                    writer.close()
        await group.start("m1")


async def test_a_watch_is_for_as_long_as_it_likes_and_who_says_nothing_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_connections, "CHECK_S", 0.02)
    monkeypatch.setattr(http_connections, "IDLE_S", 0.3)
    monkeypatch.setattr(http_connections, "CONNECTIONS_MAX", 5)
    async with running_group(tmp_path, 1) as group, client(group.endpoints[0]) as session:
        host, port = group.endpoints[0].split(":")
        async with session.post("/v3/watch", data=json.dumps({"create_request": key("a")})) as response:
            await response.content.readline()
            for _ in range(3):
                ends = [await asyncio.open_connection(host, int(port)) for _ in range(10)]
                for _, writer in ends:
                    writer.write(b"GET /heal")
                async with asyncio.timeout(10):
                    for reader, writer in ends:
                        assert await reader.read() == b""
                        writer.close()
            await post(session, "kv/put", key("a", value=b64("1")))
            async with asyncio.timeout(10):
                assert b'"events"' in await response.content.readline()


async def test_large_requests_and_answers_are_made_in_a_thread(tmp_path: Path) -> None:
    operations = [{"request_put": key(f"{number:05}", value=b64("x" * 100))} for number in range(15_000)]
    async with running_group(tmp_path, 1, max_txn_ops=20_000, max_request_bytes=8 << 20) as group:
        threads: set[str] = set()

        def noted(*arguments: Any, **options: Any) -> Any:
            threads.add(threading.current_thread().name)
            return original(*arguments, **options)

        for name in ("ParseDict", "MessageToDict"):
            original = getattr(json_format, name)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(json_format, name, noted)
                async with client(group.endpoints[0]) as session:
                    assert (await post(session, "kv/txn", {"success": operations}))[0] == 200
                    _, (found,) = await post(session, "kv/range", key("0", range_end=b64("2")))
                    assert found["count"] == "15000"
            assert any(name.startswith("gateway") for name in threads)
            threads.clear()


async def test_pages_of_other_origins_get_nothing(tmp_path: Path) -> None:
    """What a browser sends for them it sends without asking, when it looks like a form."""
    async with member(tmp_path) as session:
        headers = {"Origin": "http://elsewhere.example", "Content-Type": "text/plain"}
        async with session.post("/v3/kv/put", data=json.dumps(key("a")), headers=headers) as response:
            assert response.status == 403
        assert (await post(session, "kv/range", key("a")))[1] == [{"header": {"revision": "1"}}]


async def test_requests_are_bounded(tmp_path: Path) -> None:
    async with member(tmp_path, max_request_bytes=10_000) as session:
        assert (await post(session, "kv/put", key("a", value=b64("x" * 9000))))[0] == 200
        status, (told,) = await post(session, "kv/put", key("a", value=b64("x" * 11_000)))
        assert (status, told["message"]) == (400, "etcdserver: request is too large")
        status, (told,) = await post(session, "kv/put", key("a", value=b64("x" * 100_000)))
        assert (status, told["message"]) == (400, "etcdserver: request is too large")
        async with session.post("/v3/watch", data='{"create_request":{}}' * 900) as response:
            for _ in range(900):
                assert json.loads(await response.content.readline())["result"]["created"]


async def test_certificates_say_who_may(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    server = pki.tls("etcd-server", server=True)
    config = Config(
        data_dir=tmp_path / "d",
        listen_client_urls=[f"https://127.0.0.1:{port}"],
        listen_peer_urls=["http://127.0.0.1:0"],
        cert_file=server.cert_file,
        key_file=server.key_file,
        trusted_ca_file=server.ca_file,
        client_cert_allowed_cn=["friend"],
    )
    service = Service(config)
    await service.start()
    try:
        for name, status in (("friend", 200), ("other", 403)):
            files = pki.tls(name)
            context = ssl.create_default_context(cafile=str(files.ca_file))
            context.load_cert_chain(files.cert_file, files.key_file)
            context.set_alpn_protocols(["h2", "http/1.1"])  # who offers both gets pages
            async with aiohttp.ClientSession(f"https://127.0.0.1:{port}") as session:
                for path in ("/v3/kv/range", "/health"):
                    method = "POST" if path.startswith("/v3") else "GET"
                    async with session.request(method, path, json=key("a"), ssl=context) as response:
                        assert response.status == status, path
            channel = Channel(f"127.0.0.1:{port}", files)
            try:
                await channel.stub(KV).Range(etcd_pb2.RangeRequest(key=b"a"), timeout=5)
            except RpcError as error:
                assert status == 403, error
            await channel.close()
        context = ssl.create_default_context(cafile=str(server.ca_file))
        async with aiohttp.ClientSession() as session:
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await session.get(f"https://127.0.0.1:{port}/health", ssl=context)
    finally:
        await service.stop()
    assert address_of(config.listen_client_urls[0])[0] == "https"
