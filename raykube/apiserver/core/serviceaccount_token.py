"""ServiceAccount tokens: signed statements (JWT, RFC 7519, RS256) that a bearer is a ServiceAccount.

A *bound* token names its ServiceAccount by uid, and possibly a Pod, Secret or Node; it dies with the first of these
that goes, or with its expiry. A *legacy* token lies in a Secret and lives as long as that Secret. `Verifier.verify`
proves signature, issuer, audience and time; whether the objects still exist is asked of a `Lookup` by `check_bound`.

    claims: iss, sub = system:serviceaccount:NS:NAME, aud, iat, nbf, exp, jti,
            kubernetes.io = {namespace, serviceaccount{name,uid}, pod{name,uid}?, secret{…}?, node{…}?}
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from raykube.apiserver.core.users import (
    AUTHENTICATED,
    UserInfo,
    service_account_groups,
    service_account_name,
    split_service_account,
)
from raykube.base.clock import parse_rfc3339
from raykube.base.ids import uid

ALGORITHM = "RS256"
DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"
LEGACY_ISSUER = "kubernetes/serviceaccount"
LEGACY_CLAIM = "kubernetes.io/serviceaccount/"
EXPIRATION_S_DEFAULT = 3600
EXPIRATION_S_MIN = 600
EXPIRATION_S_MAX = 1 << 32
LEEWAY_S = 10.0  # clocks of two apiservers
DELETION_GRACE_S = 60.0  # a pod that is being deleted may still use its token to say good-bye
EXTRA = "authentication.kubernetes.io/"

# Lookup(plural, namespace, name) → the object or None; of serviceaccounts, pods, secrets and nodes.
Lookup = Callable[[str, str, str], dict[str, Any] | None]


class TokenError(ValueError):
    """The token is not to be believed; the message says why, for the log, not for the caller."""


@dataclass(frozen=True, slots=True)
class BoundObject:
    """What a token dies with: an object that must exist with this uid."""

    plural: str
    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature, issuer, audience and times hold."""

    user: UserInfo
    audiences: tuple[str, ...]
    expires: float  # infinity for legacy tokens
    bound: tuple[BoundObject, ...]
    legacy_token: str = ""


def _public(pem: bytes) -> rsa.RSAPublicKey:
    """The public key in a PEM of a public or a private RSA key."""
    key = (
        serialization.load_pem_private_key(pem, None).public_key()
        if b"PRIVATE KEY" in pem
        else serialization.load_pem_public_key(pem)
    )
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("the ServiceAccount key is not an RSA key")
    return key


def key_id(key: rsa.RSAPublicKey) -> str:
    """The `kid` of a key: the hash of its DER form."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


class Issuer:
    """Signs tokens with one private key (PEM)."""

    def __init__(self, private_key: bytes, issuer: str = DEFAULT_ISSUER) -> None:
        key = serialization.load_pem_private_key(private_key, None)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ValueError("the ServiceAccount key is not an RSA key")
        self._key = key
        self._key_id = key_id(key.public_key())
        self.issuer = issuer

    def issue(
        self,
        service_account: dict[str, Any],
        *,
        now: float,
        entropy: bytes,
        audiences: Sequence[str] = (),
        expiration_s: int = EXPIRATION_S_DEFAULT,
        pod: dict[str, Any] | None = None,
        secret: dict[str, Any] | None = None,
        node: dict[str, Any] | None = None,
    ) -> tuple[str, float]:
        """A bound token and its expiry. No `audiences` means the apiserver itself. `entropy`: 16 random bytes."""
        metadata = service_account["metadata"]
        namespace, name = metadata["namespace"], metadata["name"]
        start = int(now)
        private: dict[str, Any] = {"namespace": namespace, "serviceaccount": _reference(service_account)}
        for kind, obj in (("pod", pod), ("secret", secret), ("node", node)):
            if obj is not None:
                private[kind] = _reference(obj)
        claims = {
            "aud": list(audiences) or [self.issuer],
            "exp": start + expiration_s,
            "iat": start,
            "iss": self.issuer,
            "jti": uid(entropy),
            "kubernetes.io": private,
            "nbf": start,
            "sub": service_account_name(namespace, name),
        }
        return self._sign(claims), float(start + expiration_s)

    def issue_legacy(self, service_account: dict[str, Any], secret_name: str) -> str:
        """The token of a Secret of type kubernetes.io/service-account-token."""
        metadata = service_account["metadata"]
        claims = {
            "iss": LEGACY_ISSUER,
            LEGACY_CLAIM + "namespace": metadata["namespace"],
            LEGACY_CLAIM + "secret.name": secret_name,
            LEGACY_CLAIM + "service-account.name": metadata["name"],
            LEGACY_CLAIM + "service-account.uid": metadata.get("uid", ""),
            "sub": service_account_name(metadata["namespace"], metadata["name"]),
        }
        return self._sign(claims)

    def _sign(self, claims: dict[str, Any]) -> str:
        return jwt.encode(claims, self._key, ALGORITHM, headers={"kid": self._key_id})


def _reference(obj: dict[str, Any]) -> dict[str, str]:
    metadata = obj["metadata"]
    return {"name": metadata["name"], "uid": metadata.get("uid", "")}


class Verifier:
    """Checks tokens against public keys (PEM; several while keys are rotated)."""

    def __init__(
        self,
        keys: Iterable[bytes],
        issuers: Sequence[str] = (DEFAULT_ISSUER,),
        audiences: Sequence[str] = (),
    ) -> None:
        self._keys = {key_id(key): key for key in map(_public, keys)}
        self.issuers = tuple(issuers)
        self.audiences = tuple(audiences) or self.issuers[:1]

    def verify(self, token: str, now: float, audiences: Sequence[str] = ()) -> Verified:
        """What a token proves at `now`, for any of `audiences` (default: the apiserver's). Raises TokenError."""
        claims = self._claims(token)
        wanted = tuple(audiences) or self.audiences
        if claims.get("iss") == LEGACY_ISSUER:
            return _legacy(token, claims, wanted, self.audiences)
        if claims.get("iss") not in self.issuers:
            raise TokenError("unknown issuer")
        times = [claims.get(name) for name in ("nbf", "exp")]
        if not all(isinstance(value, int | float) for value in times):
            raise TokenError("the token has no life time")
        not_before, expires = (float(value) for value in times if value is not None)
        if now >= expires:
            raise TokenError("the token has expired")
        if now + LEEWAY_S < not_before:
            raise TokenError("the token is not valid yet")
        listed = claims.get("aud")
        named = (listed,) if isinstance(listed, str) else tuple(listed) if isinstance(listed, list) else ()
        matching = tuple(audience for audience in wanted if audience in named)
        if not matching:
            raise TokenError(f"the token is for {list(named)}, not for {list(wanted)}")
        return _bound(claims, matching, expires)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            key = self._keys.get(jwt.get_unverified_header(token).get("kid", ""))
            candidates = [key] if key is not None else list(self._keys.values())
            # Times, issuer and audience are checked by `verify`, against the caller's clock.
            options: Any = dict.fromkeys(("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss"), False)
            for candidate in candidates:
                try:
                    return dict(jwt.decode(token, candidate, algorithms=[ALGORITHM], options=options))
                except jwt.InvalidSignatureError:
                    continue
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise TokenError(f"not a token: {error}") from None
        raise TokenError("no known key signed the token")

    def jwks(self) -> dict[str, Any]:
        """The JSON Web Key Set by which others can verify tokens (`/openid/v1/jwks`)."""
        keys = []
        for identifier, key in self._keys.items():
            numbers = key.public_numbers()
            keys.append(
                {
                    "use": "sig",
                    "kty": "RSA",
                    "kid": identifier,
                    "alg": ALGORITHM,
                    "n": _base64_int(numbers.n),
                    "e": _base64_int(numbers.e),
                }
            )
        return {"keys": keys}

    def openid_configuration(self, jwks_uri: str = "") -> dict[str, Any]:
        """The document at `/.well-known/openid-configuration`."""
        return {
            "issuer": self.issuers[0],
            "jwks_uri": jwks_uri or self.issuers[0].rstrip("/") + "/openid/v1/jwks",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        }


def _base64_int(value: int) -> str:
    raw = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _text(claims: Any, *path: str) -> str:
    for name in path:
        claims = claims.get(name) if isinstance(claims, dict) else None
    return claims if isinstance(claims, str) else ""


def _account(claims: dict[str, Any], namespace: str, name: str) -> tuple[str, tuple[str, ...]]:
    """(user name, groups) of the account; the `sub` claim must say the same. Raises TokenError."""
    username = service_account_name(namespace, name)
    if claims.get("sub") != username or split_service_account(username) != (namespace, name):
        raise TokenError("the subject is not the ServiceAccount of the claims")
    return username, (*service_account_groups(namespace), AUTHENTICATED)


def _bound(claims: dict[str, Any], audiences: tuple[str, ...], expires: float) -> Verified:
    private = claims.get("kubernetes.io")
    namespace, name = _text(private, "namespace"), _text(private, "serviceaccount", "name")
    account_uid = _text(private, "serviceaccount", "uid")
    username, groups = _account(claims, namespace, name)
    bound = [BoundObject("serviceaccounts", namespace, name, account_uid)]
    extra: dict[str, tuple[str, ...]] = {}
    if _text(claims, "jti"):
        extra[EXTRA + "credential-id"] = (f"JTI={claims['jti']}",)
    for kind in ("pod", "node", "secret"):
        object_name, object_uid = _text(private, kind, "name"), _text(private, kind, "uid")
        if not object_name:
            continue
        # A node beside a pod only says where the pod runs: the pod is what the token is bound to.
        if kind != "node" or not _text(private, "pod", "name"):
            bound.append(BoundObject(kind + "s", "" if kind == "node" else namespace, object_name, object_uid))
        if kind != "secret":
            extra[f"{EXTRA}{kind}-name"] = (object_name,)
            extra[f"{EXTRA}{kind}-uid"] = (object_uid,)
    return Verified(UserInfo(username, account_uid, groups, extra), audiences, expires, tuple(bound))


def _legacy(token: str, claims: dict[str, Any], wanted: tuple[str, ...], own: tuple[str, ...]) -> Verified:
    matching = tuple(audience for audience in wanted if audience in own)
    if not matching:
        raise TokenError("a legacy token is for the apiserver only")
    namespace, name = _text(claims, LEGACY_CLAIM + "namespace"), _text(claims, LEGACY_CLAIM + "service-account.name")
    account_uid, secret = (
        _text(claims, LEGACY_CLAIM + "service-account.uid"),
        _text(claims, LEGACY_CLAIM + "secret.name"),
    )
    if not secret:
        raise TokenError("a legacy token names its Secret")
    username, groups = _account(claims, namespace, name)
    bound = (
        BoundObject("serviceaccounts", namespace, name, account_uid),
        BoundObject("secrets", namespace, secret, ""),
    )
    return Verified(UserInfo(username, account_uid, groups), matching, float("inf"), bound, token)


def check_bound(verified: Verified, lookup: Lookup, now: float) -> None:
    """Raises TokenError unless everything the token is bound to is still there, and the token has not expired since."""
    if now >= verified.expires:
        raise TokenError("the token has expired")
    for bound in verified.bound:
        obj = lookup(bound.plural, bound.namespace, bound.name)
        metadata = (obj or {}).get("metadata") or {}
        if obj is None or (bound.uid and metadata.get("uid") != bound.uid):
            raise TokenError(f"{bound.plural} {bound.namespace}/{bound.name} of the token is gone")
        deleted = metadata.get("deletionTimestamp")
        if deleted and parse_rfc3339(deleted) < now - DELETION_GRACE_S:
            raise TokenError(f"{bound.plural} {bound.namespace}/{bound.name} of the token has been deleted")
        if verified.legacy_token and bound.plural == "secrets" and not _holds(obj, verified.legacy_token):
            raise TokenError("the Secret holds another token")


def _holds(secret: dict[str, Any], token: str) -> bool:
    try:
        stored = base64.b64decode((secret.get("data") or {}).get("token", ""), validate=True)
    except binascii.Error:
        return False
    return hmac.compare_digest(stored, token.encode())
