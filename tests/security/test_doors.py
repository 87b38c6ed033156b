"""Every listening port, with no certificate, one of a stranger, and a good one of the wrong component."""

import asyncio
import contextlib
import socket
import ssl
from pathlib import Path

import pytest

from raykube.client.kv import KvClient
from raykube.cluster import addresses
from raykube.pb import api_pb2, etcd_pb2, raft_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel
from raykube.rpc.listen import socket_folder_flaw
from tests.kit.controlplane import until
from tests.security.conftest import Doors

pytestmark = pytest.mark.integration

NODE = "node-plane-1"
EXEC = "/exec/default/a/b?command=id&output=1"
API = api_pb2.DESCRIPTOR.services_by_name["Api"]
SECRETS = api_pb2.Resource(version="v1", plural="secrets")
GRPC_PORTS = (addresses.KV_CLIENT_PORT, addresses.KV_PEER_PORT, addresses.APISERVER_GRPC_PORT)
MUTUAL_PORTS = (*GRPC_PORTS, addresses.API_GRPC_PORT, addresses.KUBELET_PORT, addresses.KUBE_PROXY_RELAY_PORT)


def handshake(doors: Doors, port: int, tls: Tls | None) -> bool:
    """Whether the port lets a client with this certificate say something and answers or waits for more."""
    context = doors.context(tls)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"] if port in (*GRPC_PORTS, addresses.API_GRPC_PORT) else ["http/1.1"])
    try:
        with socket.create_connection((doors.address, port), 5) as plain, context.wrap_socket(plain) as secure:
            secure.settimeout(1.0)
            secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if secure.selected_alpn_protocol() == "h2" else b"x")
            try:
                return secure.recv(64) != b""
            except TimeoutError:
                return True
    except (ssl.SSLError, ConnectionError):
        return False


@pytest.mark.parametrize("port", MUTUAL_PORTS)
def test_a_port_of_components_needs_a_certificate_of_the_cluster(doors: Doors, port: int) -> None:
    assert handshake(doors, port, doors.pair("admin"))
    assert not handshake(doors, port, None)
    assert not handshake(doors, port, doors.foreign())


@pytest.mark.parametrize("port", [*MUTUAL_PORTS, addresses.APISERVER_PORT, addresses.API_PORT])
def test_no_port_of_components_speaks_plain_text(doors: Doors, port: int) -> None:
    with socket.create_connection((doors.address, port), 5) as plain:
        plain.settimeout(5)
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert b"200" not in plain.recv(100)


async def _range(doors: Doors, tls: Tls, port: int = addresses.KV_CLIENT_PORT) -> Code:
    channel = Channel(f"{doors.address}:{port}", tls)
    try:
        stub = channel.stub(etcd_pb2.DESCRIPTOR.services_by_name["KV"])
        await stub.Range(etcd_pb2.RangeRequest(key=b"/registry/", range_end=b"/registry0"), timeout=10)
    except RpcError as error:
        return error.code
    finally:
        await channel.close()
    return Code.OK


@pytest.mark.parametrize(
    "name", ["admin", NODE, "kube-proxy", "scheduler", "controller-manager", "router", "kv", "apiserver-kubelet-client"]
)
async def test_the_store_answers_only_the_apiserver(doors: Doors, name: str) -> None:
    assert await _range(doors, doors.pair(name)) is Code.PERMISSION_DENIED


async def test_the_store_answers_the_apiserver(doors: Doors) -> None:
    client = KvClient(doors.plane.kv_endpoints, doors.pair("apiserver-etcd-client"))
    try:
        assert (await client.range(b"/registry/", b"/registry0", limit=1)).kvs
    finally:
        await client.close()


@pytest.mark.parametrize("name", ["admin", NODE, "kv", "apiserver-etcd-client"])
async def test_members_answer_only_members(doors: Doors, name: str) -> None:
    channel = Channel(f"{doors.address}:{addresses.KV_PEER_PORT}", doors.pair(name))
    try:
        with pytest.raises(RpcError) as caught:
            await channel.stub(raft_pb2.DESCRIPTOR.services_by_name["Peer"]).Recall(
                raft_pb2.RecallRequest(cluster_id=1, member=1), timeout=10
            )
    finally:
        await channel.close()
    assert caught.value.code is Code.PERMISSION_DENIED


@pytest.mark.parametrize("path", ["/pods", "/metrics", "/stats/summary", "/containerLogs/default/a/b", EXEC])
def test_the_kubelet_answers_only_the_apiserver_and_administrators(doors: Doors, path: str) -> None:
    for name in (NODE, "kube-proxy", "scheduler", "kv", "router"):
        assert doors.http(doors.pair(name), path, port=addresses.KUBELET_PORT).code == 403, name
    allowed = doors.http(doors.pair("apiserver-kubelet-client"), path, port=addresses.KUBELET_PORT)
    assert allowed.code == (404 if "default/a" in path else 200)


@pytest.mark.parametrize(
    "path",
    [
        "/containerLogs/..%2f..%2fetc/passwd/x",
        "/containerLogs/default/..%2fx/..%2f..%2fetc",
        "/logs/",
        "/logs/../etc/passwd",
        "/run/default/a/b",
    ],
)
def test_the_kubelet_serves_no_path_out_of_its_logs(doors: Doors, path: str) -> None:
    found = doors.http(doors.pair("admin"), path, port=addresses.KUBELET_PORT)
    assert found.code == 404
    assert b"root:" not in found.body


@pytest.mark.parametrize("port", [addresses.SCHEDULER_PORT, addresses.CONTROLLER_MANAGER_PORT])
def test_health_is_for_everybody_and_numbers_are_not(doors: Doors, port: int) -> None:
    assert doors.http(None, "/healthz", port=port).code == 200
    assert doors.http(None, "/metrics", port=port).code == 401
    with pytest.raises(OSError):
        doors.http(doors.foreign(), "/metrics", port=port)


async def test_a_relay_serves_only_kube_proxies_and_only_endpoints(doors: Doors) -> None:
    async def ask(name: str) -> bytes:
        context = doors.context(doors.pair(name))
        context.check_hostname = False
        reader, writer = await asyncio.open_connection(doors.address, addresses.KUBE_PROXY_RELAY_PORT, ssl=context)
        try:
            writer.write(f"{doors.address}:{addresses.KV_CLIENT_PORT}\n".encode())
            async with asyncio.timeout(10):
                return await reader.read(200)
        finally:
            writer.close()

    assert b"only kube-proxies" in await ask(NODE)
    assert b"only kube-proxies" in await ask("admin")
    assert b"no endpoint of this node" in await ask("kube-proxy")


# -- the bulk API with the certificates of components


async def _code(doors: Doors, tls: Tls, **fields: object) -> int:
    """The result of one operation."""
    channel = Channel(doors.plane.grpc_servers[0], tls)
    try:
        operation = api_pb2.Operation(**fields)  # type: ignore[arg-type]  # the caller names the fields
        answer = await channel.stub(API).Write(api_pb2.WriteRequest(operations=[operation]), timeout=10)
        return int(answer.results[0].code)
    finally:
        await channel.close()


async def _read(doors: Doors, tls: Tls, resource: api_pb2.Resource, name: str = "", selector: str = "") -> Code:
    channel = Channel(doors.plane.grpc_servers[0], tls)
    stub = channel.stub(API)
    try:
        if name:
            await stub.Get(api_pb2.GetRequest(resource=resource, namespace="default", name=name), timeout=10)
        else:
            async for _ in stub.List(api_pb2.ListRequest(resource=resource, field_selector=selector)):
                pass
    except RpcError as error:
        return error.code
    finally:
        await channel.close()
    return Code.OK


@pytest.fixture(scope="module")
def furnished(doors: Doors) -> Doors:
    """A Secret, a pod on another node, and that node."""
    plane = doors.plane
    until("the default account", lambda: "default" in plane.kubectl("get", "sa", "-o", "name"))
    plane.kubectl("create", "secret", "generic", "bare", "--from-literal=word=swordfish")
    other = '{"apiVersion":"v1","kind":"Node","metadata":{"name":"other"}}'
    pod = (
        '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"theirs"},"spec":{"nodeName":"other",'
        '"containers":[{"name":"a","image":"i","envFrom":[{"secretRef":{"name":"bare"}}]}]}}'
    )
    plane.kubectl("create", "-f", "-", stdin=other)
    plane.kubectl("create", "-f", "-", stdin=pod)
    return doors


async def test_a_node_keeps_to_itself(furnished: Doors) -> None:
    doors, node = furnished, furnished.pair(NODE)
    nodes, pods = api_pb2.Resource(version="v1", plural="nodes"), api_pb2.Resource(version="v1", plural="pods")
    accounts = api_pb2.Resource(version="v1", plural="serviceaccounts")
    assert await _read(doors, node, SECRETS, "bare") is Code.PERMISSION_DENIED
    assert await _read(doors, node, SECRETS) is Code.PERMISSION_DENIED
    assert await _read(doors, node, SECRETS, selector="metadata.name=bare") is Code.PERMISSION_DENIED
    assert await _read(doors, node, pods) is Code.PERMISSION_DENIED
    assert await _read(doors, node, pods, selector="spec.nodeName=other") is Code.PERMISSION_DENIED
    assert await _read(doors, node, pods, selector="spec.nodeName=plane-1") is Code.OK
    theirs = {"resource": pods, "namespace": "default", "name": "theirs"}
    merge = {"verb": api_pb2.PATCH, "patch_type": api_pb2.MERGE}
    assert await _code(doors, node, verb=api_pb2.BIND, node="plane-1", **theirs) == 403
    assert await _code(doors, node, verb=api_pb2.DELETE, **theirs) == 403
    assert await _code(doors, node, **merge, **theirs, body=b'{"metadata":{"labels":{"a":"b"}}}') == 403
    lie = b'{"status":{"phase":"Succeeded"}}'
    assert await _code(doors, node, **merge, **theirs, subresource="status", body=lie) == 403
    evict = {"verb": api_pb2.CREATE, "subresource": "eviction", "body": b"{}"}
    assert await _code(doors, node, **evict, **theirs) == 403
    for name in ("other", "plane-1"):
        assert await _code(doors, node, verb=api_pb2.DELETE, resource=nodes, name=name) == 403
    assert await _code(doors, node, **merge, resource=nodes, name="other", body=b'{"spec":{}}') == 403
    for body in (
        b'{"metadata":{"labels":{"node-restriction.kubernetes.io/secure":"yes"}}}',
        b'{"metadata":{"labels":{"x.node-restriction.kubernetes.io/secure":"yes"}}}',
        b'{"metadata":{"labels":{"node-role.kubernetes.io/vault":"yes"}}}',
        b'{"metadata":{"labels":{"security.example.k8s.io/level":"top"}}}',
        b'{"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}}',
    ):
        for subresource in ("", "status"):
            got = await _code(doors, node, **merge, resource=nodes, name="plane-1", subresource=subresource, body=body)
            stored = doors.plane.kubectl("get", "node", "plane-1", "-o", "json")
            assert got == 403 or (subresource and "taints" in body.decode() and '"key": "k"' not in stored), body
    free = b'{"metadata":{"labels":{"example.com/rack":"7","topology.kubernetes.io/zone":"z"}}}'
    assert await _code(doors, node, **merge, resource=nodes, name="plane-1", body=free) == 200
    token = {"verb": api_pb2.CREATE, "subresource": "token", "namespace": "default", "name": "default"}
    assert await _code(doors, node, **token, resource=accounts, body=b'{"spec":{}}') == 403


async def test_other_components_have_their_own_rights_only(furnished: Doors) -> None:
    doors = furnished
    assert await _read(doors, doors.pair("scheduler"), SECRETS) is Code.PERMISSION_DENIED
    assert await _read(doors, doors.pair("scheduler"), SECRETS, "bare") is Code.PERMISSION_DENIED
    pods = api_pb2.Resource(version="v1", plural="pods")
    pod = b'{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"a","image":"i"}]}}'
    for name in ("kube-proxy", "scheduler", "router", "kv"):
        code = await _code(doors, doors.pair(name), verb=api_pb2.CREATE, resource=pods, namespace="default", body=pod)
        assert code == 403, name
    theirs = {"resource": pods, "namespace": "default", "name": "theirs"}
    assert await _code(doors, doors.pair("kube-proxy"), verb=api_pb2.DELETE, **theirs) == 403
    assert await _read(doors, doors.pair("router"), SECRETS, "bare") is Code.PERMISSION_DENIED


async def test_bad_operations_are_answered_one_by_one(furnished: Doors) -> None:
    doors, admin = furnished, furnished.pair("admin")
    maps = api_pb2.Resource(version="v1", plural="configmaps")
    create = {"verb": api_pb2.CREATE, "resource": maps, "namespace": "default"}
    for body in (b"", b"{", b"[]", b"null", b"7", b"[" * 100_000, b'{"a":' * 5000, b"\xff\xfe", b'{"metadata":[]}',
                 b'{"metadata":{"name":7}}', b'{"metadata":{"name":"a"},"data":{"x":7}}',
                 b'{"kind":"Pod","metadata":{"name":"a"}}', b'{"metadata":{"name":"a","namespace":"kube-system"}}',
                 b'{"metadata":{"name":"../a"}}', b'{"metadata":{"name":"a\\u0000"}}'):  # fmt: skip
        assert await _code(doors, admin, **create, body=body) in (400, 422), body[:40]
    unknown = api_pb2.Resource(version="v9", plural="configmaps")
    assert await _code(doors, admin, verb=api_pb2.CREATE, resource=unknown, namespace="default", body=b"{}") == 404
    assert await _code(doors, admin, resource=maps, namespace="default", name="a") == 405
    for name in ("../../secrets/default/bare", "a/b", "..", "a\0b"):
        assert await _code(doors, admin, verb=api_pb2.DELETE, resource=maps, namespace="default", name=name) == 404
    for namespace in ("../kube-system", "a/b"):
        fields = {**create, "namespace": namespace, "body": b'{"metadata":{"name":"a"}}'}
        assert await _code(doors, admin, **fields) in (400, 404, 422), namespace
    bind = {"verb": api_pb2.BIND, "resource": maps, "namespace": "default", "name": "a"}
    assert await _code(doors, admin, **bind, node="plane-1") in (400, 404, 405)


# -- files


def test_keys_and_data_are_the_owners(doors: Doors) -> None:
    data = doors.plane.data_dir
    for key in (data / "pki").glob("*.key"):
        assert key.stat().st_mode & 0o077 == 0, key
    assert doors.plane.kubeconfig.stat().st_mode & 0o777 == 0o600
    assert (data / "pki").stat().st_mode & 0o077 == 0
    home = data / "machines" / "plane-1"
    assert (home / "kv").stat().st_mode & 0o077 == 0
    for path in (home / "kv").rglob("*"):
        assert path.is_dir() or path.stat().st_mode & 0o077 == 0, path
    assert (home / "kubelet" / "pods").stat().st_mode & 0o007 == 0
    socket_file = doors.plane.state.scratch_dir / "plane-1.sock"
    assert socket_file.stat().st_mode & 0o077 == 0
    assert socket_file.parent.stat().st_mode & 0o077 == 0


def test_a_folder_for_sockets_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    own, open_to_all, link = tmp_path / "own", tmp_path / "open", tmp_path / "link"
    own.mkdir(mode=0o700)
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(own)
    assert socket_folder_flaw(own) == ""
    assert socket_folder_flaw(open_to_all) == "can be written by other users"
    assert socket_folder_flaw(link) == "is a link, not a folder"
    assert socket_folder_flaw(Path("/tmp")) == ""
