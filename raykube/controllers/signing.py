"""Signs the tokens of Secrets with the cluster's ServiceAccount key."""

import base64
import hashlib
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from raykube.controllers.core.plan import Obj
from raykube.controllers.core.token_secrets import Sign


def signer(path: Path) -> Sign:
    """A function that makes an RS256 JWT of claims. Raises OSError and ValueError."""
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(f"{path} is not an RSA private key: give --service-account-private-key-file one in PEM")
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    # The apiserver finds the key to verify with by this name: the hash of the public key.
    key_id = base64.urlsafe_b64encode(hashlib.sha256(public).digest()).rstrip(b"=").decode()

    def sign(claims: Obj) -> str:
        return jwt.encode(claims, key, "RS256", headers={"kid": key_id})

    return sign
