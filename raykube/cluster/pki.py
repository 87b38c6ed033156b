"""The cluster's certificates: one CA, a pair for every component, and the key that signs ServiceAccount tokens.

A *pair* is a certificate and its private key in PEM. On disk a pair NAME is `NAME.crt` and `NAME.key`; keys have mode
0600. The layout of a PKI folder:

    ca                          10 years; signs all the others (serving, client, store peers)
    sa.key, sa.pub              RSA: signs and verifies ServiceAccount tokens (RS256)
    apiserver                   serving; names of the `kubernetes` Service, of all machines, and all addresses
    apiserver-kubelet-client    the apiserver towards kubelets
    apiserver-etcd-client       the apiserver towards the store
    kv, kv-peer                 the store towards its clients, and members towards each other
    admin                       kubernetes-admin in system:masters: whoever holds it may do everything
    scheduler, controller-manager, router, kube-proxy, dns
    node-NAME                   the kubelet of machine NAME: client (system:node:NAME in system:nodes) and serving

Rules: `write_pki` may run any number of times and writes only what is missing, expires in less than RENEW_DAYS, does
not name an address it must name, or does not belong to this CA or key. The CA is renewed under the same key, so what it
signed stays valid. A folder with half a CA is refused: making a new one would lock everybody out silently.
"""

import ipaddress
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS = 3650
LEAF_DAYS = 365
RENEW_DAYS = LEAF_DAYS // 3  # a machine that is away for months comes back with certificates that are still valid
SKEW = timedelta(minutes=5)  # machines whose clocks are a little behind must accept a fresh certificate
STORE_CLIENT = "kube-apiserver-etcd-client"  # the only name that the store answers
STORE_PEER = "kube-etcd-peer"
API_DNS_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
)


@dataclass(frozen=True, slots=True)
class PemPair:
    """A certificate and its private key, both PEM."""

    cert: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Subject:
    """What a certificate says: whom it names, for which hosts, and for which side of a connection."""

    cn: str
    orgs: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    ips: tuple[str, ...] = ()
    server: bool = False
    client: bool = True


def _private_pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_der(key: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is not an elliptic-curve key")
    return key


def _name(cn: str, orgs: Iterable[str] = ()) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, org) for org in orgs]
        + [x509.NameAttribute(NameOID.COMMON_NAME, cn)]
    )


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def new_ca(cn: str, now: float, *, key: bytes | None = None) -> PemPair:
    """A self-signed CA for CA_DAYS; under `key` (PEM) when given, which renews that CA."""
    private = ec.generate_private_key(ec.SECP256R1()) if key is None else _load_key(key)
    start = datetime.fromtimestamp(now, UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(_name(cn))
        .issuer_name(_name(cn))
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - SKEW)
        .not_valid_after(start + timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .sign(private, hashes.SHA256())
    )
    return PemPair(cert.public_bytes(serialization.Encoding.PEM), _private_pem(private))


def new_signing_key() -> tuple[bytes, bytes]:
    """(private, public) PEM of a fresh RSA key for ServiceAccount tokens."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return _private_pem(key), public


def issue(
    ca: PemPair,
    cn: str,
    orgs: Sequence[str] = (),
    sans_dns: Sequence[str] = (),
    sans_ip: Sequence[str] = (),
    *,
    now: float,
    server: bool = False,
    client: bool = True,
    days: float = LEAF_DAYS,
) -> PemPair:
    """A fresh pair signed by `ca` (EC P-256). A serving certificate must name a host: TLS peers ignore the CN."""
    if server and not (sans_dns or sans_ip):
        raise ValueError(f"a serving certificate for {cn} needs a host name or an address")
    issuer = x509.load_pem_x509_certificate(ca.cert)
    issuer_key = _load_key(ca.key)
    private = ec.generate_private_key(ec.SECP256R1())
    start = datetime.fromtimestamp(now, UTC)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(cn, orgs))
        .issuer_name(issuer.subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start - SKEW)
        .not_valid_after(min(start + timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    names: list[x509.GeneralName] = [x509.DNSName(name) for name in dict.fromkeys(sans_dns)]
    names += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in dict.fromkeys(sans_ip)]
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    cert = builder.sign(issuer_key, hashes.SHA256())
    return PemPair(cert.public_bytes(serialization.Encoding.PEM), _private_pem(private))


def issue_subject(ca: PemPair, subject: Subject, now: float) -> PemPair:
    """`issue` for a Subject."""
    return issue(
        ca, subject.cn, subject.orgs, subject.dns, subject.ips,
        now=now, server=subject.server, client=subject.client,
    )  # fmt: skip


def subjects(
    machines: Mapping[str, Sequence[str]], extra_sans: Sequence[str] = (), service_ip: str = ""
) -> dict[str, Subject]:
    """Every pair of a cluster by its file name. `machines`: node name → its addresses."""
    addresses = [ip for ips in machines.values() for ip in ips]
    extra_ips = [san for san in extra_sans if _is_ip(san)]
    extra_dns = [san for san in extra_sans if not _is_ip(san)]
    ips = tuple(dict.fromkeys(["127.0.0.1", *addresses, *extra_ips]))
    dns = tuple(dict.fromkeys(["localhost", *machines, *extra_dns]))
    api_dns = tuple(dict.fromkeys([*API_DNS_NAMES, *machines, *extra_dns]))
    api_ips = (*ips, service_ip) if service_ip else ips

    def serving(cn: str, orgs: tuple[str, ...] = ()) -> Subject:
        return Subject(cn, orgs, dns, ips, server=True)

    found = {
        # Serves HTTPS and gRPC; also its client face towards other apiservers.
        "apiserver": Subject("kube-apiserver", (), api_dns, api_ips, server=True),
        "apiserver-kubelet-client": Subject("kube-apiserver-kubelet-client"),
        "apiserver-etcd-client": Subject(STORE_CLIENT),
        "kv": serving("kube-etcd"),
        "kv-peer": serving(STORE_PEER),
        "admin": Subject("kubernetes-admin", ("system:masters",)),
        "scheduler": serving("system:kube-scheduler"),
        "controller-manager": serving("system:kube-controller-manager"),
        "router": Subject("raykube:router"),
        "kube-proxy": serving("system:kube-proxy"),
        "pod-network": serving("raykube:pod-network"),
        "dns": Subject("system:kube-dns"),
        "hollow": serving("raykube:hollow"),
    }
    for name, node_ips in machines.items():
        found[f"node-{name}"] = node_subject(name, node_ips)
    return found


def node_subject(name: str, ips: Sequence[str]) -> Subject:
    """The kubelet's certificate on machine `name`: both sides of a connection."""
    hosts = tuple(dict.fromkeys(["127.0.0.1", *ips]))
    return Subject(f"system:node:{name}", ("system:nodes",), (name, "localhost"), hosts, server=True)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def flaw(pair: PemPair, ca: PemPair, subject: Subject, now: float) -> str:
    """Why `pair` must be issued again for `subject`; "" when it still serves."""
    try:
        cert = x509.load_pem_x509_certificate(pair.cert)
        key = _load_key(pair.key)
        authority = x509.load_pem_x509_certificate(ca.cert)
        cert.verify_directly_issued_by(authority)
    except (ValueError, TypeError):
        return "unreadable"
    except InvalidSignature:
        return "signed by another CA"
    if _public_der(cert) != _public_der(key):
        return "certificate and key do not belong together"
    if cert.not_valid_after_utc - datetime.fromtimestamp(now, UTC) < timedelta(days=RENEW_DAYS):
        return "expires soon"
    if cert.subject != _name(subject.cn, subject.orgs):
        return "names another subject"
    try:
        usage = cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return "no key usage"
    if subject.server and ExtendedKeyUsageOID.SERVER_AUTH not in usage:
        return "not a serving certificate"
    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = set(names.get_values_for_type(x509.DNSName))
        ips = {str(ip) for ip in names.get_values_for_type(x509.IPAddress)}
    except x509.ExtensionNotFound:
        dns, ips = set(), set()
    missing = (set(subject.dns) - dns) | ({str(ipaddress.ip_address(ip)) for ip in subject.ips} - ips)
    return f"does not name {sorted(missing)[0]}" if missing else ""


def write_file(path: Path, data: bytes, mode: int) -> None:
    """Replaces `path` by `data` at once: readers see the old or the new file, and no one else ever a private key."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_pair(directory: Path, name: str) -> PemPair:
    """The pair `name` of a PKI folder. Raises OSError."""
    return PemPair((directory / f"{name}.crt").read_bytes(), (directory / f"{name}.key").read_bytes())


def write_pair(directory: Path, name: str, pair: PemPair) -> None:
    """Writes a pair, key first: a crash between the two leaves a pair that `flaw` refuses, not one that half works."""
    write_file(directory / f"{name}.key", pair.key, 0o600)
    write_file(directory / f"{name}.crt", pair.cert, 0o644)


def _ensure_ca(directory: Path, now: float, written: list[str]) -> PemPair:
    cert, key = directory / "ca.crt", directory / "ca.key"
    if not cert.exists() and not key.exists():
        ca = new_ca("raykube-ca", now)
        write_pair(directory, "ca", ca)
        written.append("ca")
        return ca
    if not key.exists():
        raise ValueError(f"{directory} has ca.crt but no ca.key: restore the key, or choose another data directory")
    try:
        private = _load_key(key.read_bytes())
        # A key alone is what a crash between the two files leaves: the key still signs.
        authority = x509.load_pem_x509_certificate(cert.read_bytes()) if cert.exists() else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"cannot read the CA in {directory}: {error}") from None
    if authority is not None and _public_der(authority) != _public_der(private):
        raise ValueError(f"{cert} and {key} do not belong together: restore the pair, or choose another data directory")
    soon = datetime.fromtimestamp(now, UTC) + timedelta(days=RENEW_DAYS)
    if authority is None or authority.not_valid_after_utc < soon:
        cn = (
            "raykube-ca"
            if authority is None
            else str(authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        )
        ca = new_ca(cn, now, key=key.read_bytes())
        write_file(cert, ca.cert, 0o644)
        written.append("ca")
        return ca
    return read_pair(directory, "ca")


def _ensure_signing_key(directory: Path, written: list[str]) -> None:
    private_file, public_file = directory / "sa.key", directory / "sa.pub"
    if private_file.exists() and public_file.exists():
        return
    if private_file.exists():
        key = serialization.load_pem_private_key(private_file.read_bytes(), None)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    else:
        private, public = new_signing_key()
        write_file(private_file, private, 0o600)
    write_file(public_file, public, 0o644)
    written.append("sa")


def write_pki(
    directory: Path,
    machines: Mapping[str, Sequence[str]],
    *,
    now: float,
    service_ip: str = "",
    extra_sans: Sequence[str] = (),
) -> list[str]:
    """Makes `directory` hold every pair of the cluster; returns the names of those that it (re)issued.

    `machines`: node name → addresses. `service_ip`: the first address of the service range, which the Service
    `kubernetes` has. `extra_sans`: further names or addresses that clients use for the apiserver. Raises OSError, and
    ValueError with a line that says what to do.
    """
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    written: list[str] = []
    ca = _ensure_ca(directory, now, written)
    _ensure_signing_key(directory, written)
    for name, subject in subjects(machines, extra_sans, service_ip).items():
        try:
            if not flaw(read_pair(directory, name), ca, subject, now):
                continue
        except FileNotFoundError:
            pass
        write_pair(directory, name, issue_subject(ca, subject, now))
        written.append(name)
    return written
