"""TLS material, contexts made of it, and the identity that a client certificate proves."""

import asyncio
import logging
import ssl
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from raykube.rpc.errors import Code, RpcError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: own certificate and key, and the CA that peers must be signed by (mutual TLS)."""

    cert_file: Path
    key_file: Path
    ca_file: Path


def client_context(tls: Tls, *, check_hostname: bool = True) -> ssl.SSLContext:
    """For connecting: shows the certificate, asks for one of the CA. Raises ValueError with a line for the user.

    A long-lived context follows its files: new connections show the certificate that is there then.
    """
    return _followed(tls, _context(tls, ssl.Purpose.SERVER_AUTH, check_hostname))


def server_context(tls: Tls) -> ssl.SSLContext:
    """For listening: clients must show a certificate of the CA. Raises ValueError with a line for the user.

    It follows its files as `client_context`'s does.
    """
    context = _context(tls, ssl.Purpose.CLIENT_AUTH, False)
    context.verify_mode = ssl.CERT_REQUIRED
    return _followed(tls, context)


class _Context(ssl.SSLContext):
    """A context that looks at its files whenever a connection begins."""

    followed: "Followed | None" = None
    protocols: Sequence[str] = ()

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        self.protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(self.protocols)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        latest = self if self.followed is None else self.followed.latest()
        return super(_Context, latest).wrap_bio(*arguments, **options)


def _followed(tls: Tls, context: _Context) -> _Context:
    context.followed = Followed(tls, context)
    return context


def _context(tls: Tls, purpose: ssl.Purpose, check_hostname: bool) -> _Context:
    for path in (tls.ca_file, tls.cert_file, tls.key_file):
        try:
            path.read_bytes()
        except OSError as error:  # ssl's own does not say which file it is
            raise ValueError(f"cannot read {path}: {error.strerror}") from None
    is_client = purpose is ssl.Purpose.SERVER_AUTH
    context = _Context(ssl.PROTOCOL_TLS_CLIENT if is_client else ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(tls.ca_file)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.ca_file} holds no certificates of an authority: {error.reason}") from None
    context.check_hostname = check_hostname
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except ssl.SSLError as error:
        raise ValueError(f"{tls.cert_file} is no certificate for the key {tls.key_file}: {error.reason}") from None
    return context


class Followed:
    """A context that follows its files, which are renewed while it is in use: new connections show the new ones, and
    are of an authority that is among the new ones."""

    def __init__(self, tls: Tls, context: _Context) -> None:
        self._context = context
        self._latest = context
        self._tls = tls
        self._seen = self._stamp()

    def _stamp(self) -> tuple[object, ...]:
        """Differs when a file does."""
        found: list[object] = []
        for path in (self._tls.ca_file, self._tls.cert_file, self._tls.key_file):
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(found)

    def latest(self) -> _Context:
        """The context of the files as they are. Those that cannot be used wait for a change: one of a pair may be
        older."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._latest = self._anew()
            except ValueError as error:
                log.warning("renewed certificates are not used: %s", error)
            else:
                log.info("%s and its key are read anew", self._tls.cert_file)
        return self._latest

    def _anew(self) -> _Context:
        """A context as ours, with what the files hold: one in use never forgets an authority."""
        ours = self._context
        is_client = ours.protocol is ssl.PROTOCOL_TLS_CLIENT
        purpose = ssl.Purpose.SERVER_AUTH if is_client else ssl.Purpose.CLIENT_AUTH
        fresh = _context(self._tls, purpose, ours.check_hostname)
        fresh.verify_mode, fresh.minimum_version, fresh.options = ours.verify_mode, ours.minimum_version, ours.options
        if ours.protocols:
            fresh.set_alpn_protocols(ours.protocols)
        return fresh


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a certificate names, in Kubernetes' reading: common name = user, organizations = groups."""

    user: str
    groups: tuple[str, ...]


def identity_of(pem: bytes) -> Identity:
    """The identity in a PEM certificate. Raises ValueError when it is no certificate or names nobody."""
    subject = x509.load_pem_x509_certificate(pem).subject
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        raise ValueError("the certificate has no common name")
    groups = subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return Identity(str(names[0].value), tuple(str(group.value) for group in groups))


@lru_cache(maxsize=4096)
def _identity_of(certificate: bytes) -> Identity:
    return identity_of(ssl.DER_cert_to_PEM_cert(certificate).encode())


def peer_of(transport: asyncio.BaseTransport | None) -> Identity | ValueError | None:
    """Whom the certificate of a connection's other end names; None without one, an error where it names nobody."""
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if not certificate:
        return None
    try:
        return _identity_of(certificate)
    except ValueError as error:
        return error


def denial(peer: Identity | ValueError | None, users: Collection[str]) -> RpcError | None:
    """Why this peer may not call; None when it may. Without `users` everybody may."""
    if not users or (isinstance(peer, Identity) and peer.user in users):
        return None
    shown = repr(peer.user) if isinstance(peer, Identity) else "nobody"
    return RpcError(Code.PERMISSION_DENIED, f"the client certificate names {shown}, which may not call this")
