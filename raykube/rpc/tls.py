"""TLS material and the identity that a client certificate proves."""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files: own certificate and key, and the CA that peers must be signed by (mutual TLS)."""

    cert_file: Path
    key_file: Path
    ca_file: Path


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
