"""The certificates do what TLS stacks (OpenSSL, BoringSSL in grpc) and raykube's own identity reading ask of them."""

import asyncio
import ssl
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509

from raykube.cluster import pki
from raykube.pb import api_pb2
from raykube.rpc import Code, RpcError, Tls
from raykube.rpc.channel import Channel
from raykube.rpc.server import Server
from raykube.rpc.tls import identity_of

MACHINES = {"m2": ["127.4.0.2"], "m3": ["127.4.0.3"]}
DAY = 86400.0


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_layout_modes_and_idempotence(tmp_path: Path) -> None:
    now = time.time()
    written = pki.write_pki(tmp_path, MACHINES, now=now, service_ip="127.4.128.1")
    assert {"ca", "sa", "apiserver", "admin", "kv", "kv-peer", "node-m2", "node-m3", "kube-proxy", "router"} <= set(
        written
    )
    for path in tmp_path.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o600 if path.suffix == ".key" else 0o644), path
    before = files(tmp_path)
    assert pki.write_pki(tmp_path, MACHINES, now=now, service_ip="127.4.128.1") == []
    assert files(tmp_path) == before


def test_identities_are_upstreams(tmp_path: Path) -> None:
    pki.write_pki(tmp_path, MACHINES, now=time.time())
    found = {path.stem: identity_of(path.read_bytes()) for path in tmp_path.glob("*.crt") if path.stem != "ca"}
    assert (found["admin"].user, found["admin"].groups) == ("kubernetes-admin", ("system:masters",))
    assert (found["node-m2"].user, found["node-m2"].groups) == ("system:node:m2", ("system:nodes",))
    assert found["scheduler"].user == "system:kube-scheduler"
    assert found["controller-manager"].user == "system:kube-controller-manager"
    assert found["kube-proxy"].user == "system:kube-proxy"


def test_apiserver_names(tmp_path: Path) -> None:
    pki.write_pki(tmp_path, MACHINES, now=time.time(), service_ip="127.4.128.1", extra_sans=["api.example", "10.0.0.9"])
    cert = x509.load_pem_x509_certificate((tmp_path / "apiserver.crt").read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    dns = names.get_values_for_type(x509.DNSName)
    ips = {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}
    assert {*pki.API_DNS_NAMES, "m2", "m3", "api.example"} == set(dns)
    assert {"127.0.0.1", "127.4.0.2", "127.4.0.3", "127.4.128.1", "10.0.0.9"} == ips


def test_renews_only_what_expires_and_keeps_the_ca(tmp_path: Path) -> None:
    now = time.time()
    pki.write_pki(tmp_path, MACHINES, now=now)
    ca, key = (tmp_path / "ca.crt").read_bytes(), (tmp_path / "sa.key").read_bytes()
    assert pki.write_pki(tmp_path, MACHINES, now=now + (pki.LEAF_DAYS - pki.RENEW_DAYS - 1) * DAY) == []
    renewed = pki.write_pki(tmp_path, MACHINES, now=now + (pki.LEAF_DAYS - pki.RENEW_DAYS + 1) * DAY)
    assert set(renewed) == set(pki.subjects(MACHINES))
    assert (tmp_path / "ca.crt").read_bytes() == ca
    assert (tmp_path / "sa.key").read_bytes() == key


def test_a_renewed_ca_still_vouches_for_what_it_signed(tmp_path: Path) -> None:
    now = time.time()
    pki.write_pki(tmp_path, MACHINES, now=now)
    old = pki.read_pair(tmp_path, "admin")
    assert "ca" in pki.write_pki(tmp_path, MACHINES, now=now + (pki.CA_DAYS - 5) * DAY)
    assert pki.flaw(old, pki.read_pair(tmp_path, "ca"), pki.subjects(MACHINES)["admin"], now) == ""


def test_a_new_machine_gets_a_pair_and_the_serving_ones_name_it(tmp_path: Path) -> None:
    now = time.time()
    pki.write_pki(tmp_path, MACHINES, now=now)
    written = pki.write_pki(tmp_path, {**MACHINES, "m4": ["127.4.0.4"]}, now=now)
    assert {"node-m4", "apiserver", "kv", "kv-peer"} <= set(written)
    assert not {"ca", "admin", "node-m2"} & set(written)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda d: (d / "admin.crt").write_bytes(b"junk"), "admin"),
        (lambda d: (d / "admin.crt").unlink(), "admin"),
        (lambda d: (d / "admin.key").write_bytes((d / "kv.key").read_bytes()), "admin"),
        (lambda d: (d / "sa.pub").unlink(), "sa"),
    ],
)
def test_repairs_a_damaged_pair(tmp_path: Path, damage, expected: str) -> None:  # type: ignore[no-untyped-def]  # a lambda
    now = time.time()
    pki.write_pki(tmp_path, MACHINES, now=now)
    damage(tmp_path)
    assert pki.write_pki(tmp_path, MACHINES, now=now) == [expected]
    assert pki.write_pki(tmp_path, MACHINES, now=now) == []


def test_a_pair_of_another_ca_is_replaced(tmp_path: Path) -> None:
    now = time.time()
    pki.write_pki(tmp_path, MACHINES, now=now)
    pki.write_pair(
        tmp_path, "admin", pki.issue(pki.new_ca("raykube-ca", now), "kubernetes-admin", ["system:masters"], now=now)
    )
    assert pki.write_pki(tmp_path, MACHINES, now=now) == ["admin"]


def test_half_a_ca_is_refused_in_one_line(tmp_path: Path) -> None:
    pki.write_pki(tmp_path, MACHINES, now=time.time())
    (tmp_path / "ca.key").unlink()
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"has ca\.crt but no ca\.key: restore the key"):
        pki.write_pki(tmp_path, MACHINES, now=time.time())
    assert files(tmp_path) == before
    (tmp_path / "ca.key").write_bytes((tmp_path / "kv.key").read_bytes())
    with pytest.raises(ValueError, match="do not belong together"):
        pki.write_pki(tmp_path, MACHINES, now=time.time())


class Api:
    async def Get(self, request, call):  # type: ignore[no-untyped-def]  # a handler
        return api_pb2.GetResponse(object=call.identity.user.encode())


async def test_grpc_accepts_the_pairs_both_ways(tmp_path: Path) -> None:
    pki.write_pki(tmp_path, MACHINES, now=time.time())
    stranger = tmp_path / "stranger"
    pki.write_pki(stranger, MACHINES, now=time.time())

    def tls(name: str, directory: Path = tmp_path) -> Tls:
        return Tls(directory / f"{name}.crt", directory / f"{name}.key", tmp_path / "ca.crt")

    server = Server()
    server.add(api_pb2.DESCRIPTOR.services_by_name["Api"], Api())
    port = server.listen("127.4.0.2:0", tls("apiserver"))
    await server.start()
    try:
        channel = Channel(f"127.4.0.2:{port}", tls("node-m3"))
        answer = await channel.stub(api_pb2.DESCRIPTOR.services_by_name["Api"]).Get(api_pb2.GetRequest(), timeout=20)
        assert answer.object == b"system:node:m3"
        await channel.close()
        channel = Channel(f"127.4.0.2:{port}", tls("node-m3", stranger))
        with pytest.raises(RpcError) as refused:
            await channel.stub(api_pb2.DESCRIPTOR.services_by_name["Api"]).Get(api_pb2.GetRequest(), timeout=10)
        assert refused.value.code in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
        await channel.close()
    finally:
        await server.stop()


async def test_openssl_checks_the_host_name(tmp_path: Path) -> None:
    pki.write_pki(tmp_path, MACHINES, now=time.time())
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(tmp_path / "node-m2.crt", tmp_path / "node-m2.key")
    server = await asyncio.start_server(lambda r, w: w.close(), "127.4.0.2", 0, ssl=serving)
    port = server.sockets[0].getsockname()[1]
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    try:
        for name in ("m2", "127.4.0.2"):
            _, writer = await asyncio.open_connection("127.4.0.2", port, ssl=client, server_hostname=name)
            writer.close()
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.4.0.2", port, ssl=client, server_hostname="m3")
    finally:
        server.close()
