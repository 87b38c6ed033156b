"""A CA and certificates for tests, made once a process.

tls = pki.tls("system:kube-scheduler")               # raykube.rpc.Tls of a client
tls = pki.tls("apiserver", server=True)              # … of a server on any 127.0.0.0/8 address that it names
context = pki.client_context("alice", ("dev",))      # ssl.SSLContext
"""

import atexit
import functools
import shutil
import ssl
import tempfile
import time
from pathlib import Path

from raykube.cluster import pki
from raykube.rpc import Tls

SERVER_DNS = ("localhost", "kubernetes", "kubernetes.default.svc")
SERVER_IPS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "::1", "192.0.2.1")


@functools.cache
def folder() -> Path:
    """The folder of this process's test certificates; removed at exit."""
    path = Path(tempfile.mkdtemp(prefix="raykube-test-pki-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@functools.cache
def ca() -> pki.PemPair:
    pair = pki.new_ca("raykube-test-ca", time.time())
    pki.write_pair(folder(), "ca", pair)
    return pair


@functools.cache
def other_ca() -> pki.PemPair:
    """A CA that nobody in the test trusts."""
    return pki.new_ca("stranger-ca", time.time())


@functools.cache
def signing_key() -> tuple[bytes, bytes]:
    """(private, public) PEM for ServiceAccount tokens."""
    return pki.new_signing_key()


@functools.cache
def pair(
    cn: str,
    orgs: tuple[str, ...] = (),
    *,
    server: bool = False,
    dns: tuple[str, ...] = SERVER_DNS,
    ips: tuple[str, ...] = SERVER_IPS,
    stranger: bool = False,
) -> pki.PemPair:
    """A pair of the test CA (or of the stranger's), for the client side and, with `server`, for both."""
    authority = other_ca() if stranger else ca()
    return pki.issue(authority, cn, orgs, dns if server else (), ips if server else (), now=time.time(), server=server)


@functools.cache
def tls(
    cn: str,
    orgs: tuple[str, ...] = (),
    *,
    server: bool = False,
    dns: tuple[str, ...] = SERVER_DNS,
    ips: tuple[str, ...] = SERVER_IPS,
    stranger: bool = False,
) -> Tls:
    """The files of such a pair; `ca_file` is always the test CA."""
    made = pair(cn, orgs, server=server, dns=dns, ips=ips, stranger=stranger)
    ca()
    name = f"pair-{len(list(folder().glob('pair-*.crt')))}"
    pki.write_pair(folder(), name, made)
    return Tls(folder() / f"{name}.crt", folder() / f"{name}.key", folder() / "ca.crt")


def client_context(cn: str = "", orgs: tuple[str, ...] = (), *, stranger: bool = False) -> ssl.SSLContext:
    """A client's context; without `cn` it shows no certificate."""
    ca()
    context = ssl.create_default_context(cafile=str(folder() / "ca.crt"))
    if cn:
        files = tls(cn, orgs, stranger=stranger)
        context.load_cert_chain(files.cert_file, files.key_file)
    return context


def server_context(cn: str = "kube-apiserver", *, require_client: bool = False) -> ssl.SSLContext:
    """A server's context; client certificates are asked for, and required with `require_client`."""
    files = tls(cn, server=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca_file))
    context.load_cert_chain(files.cert_file, files.key_file)
    context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    return context
