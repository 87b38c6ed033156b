"""ServiceAccount tokens: what the issuer signs the verifier believes, and nothing else."""

import base64
import copy
import json
from typing import Any

import jwt
import pytest

from raykube.apiserver.core.serviceaccount_token import (
    DEFAULT_ISSUER,
    Issuer,
    TokenError,
    Verifier,
    check_bound,
)
from raykube.base.clock import rfc3339
from raykube.cluster.pki import new_signing_key
from tests.kit import pki

NOW = 1_800_000_000.0
ACCOUNT = {"metadata": {"namespace": "n", "name": "robot", "uid": "sa-uid"}}
POD = {"metadata": {"namespace": "n", "name": "web-1", "uid": "pod-uid"}}
NODE = {"metadata": {"name": "m2", "uid": "node-uid"}}
ENTROPY = bytes(16)


def issuer() -> Issuer:
    return Issuer(pki.signing_key()[0])


def verifier() -> Verifier:
    return Verifier([pki.signing_key()[1]])


def cluster(*objects: tuple[str, dict[str, Any]]) -> Any:
    found = {(plural, obj["metadata"].get("namespace", ""), obj["metadata"]["name"]): obj for plural, obj in objects}
    return lambda plural, namespace, name: found.get((plural, namespace, name))


def test_a_bound_token_says_who_and_where() -> None:
    token, expires = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY, pod=POD, node=NODE)
    assert expires == NOW + 3600
    verified = verifier().verify(token, NOW)
    assert verified.user.username == "system:serviceaccount:n:robot"
    assert verified.user.uid == "sa-uid"
    assert verified.user.groups == ("system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated")
    assert verified.user.extra["authentication.kubernetes.io/pod-name"] == ("web-1",)
    assert verified.user.extra["authentication.kubernetes.io/node-name"] == ("m2",)
    assert verified.user.extra["authentication.kubernetes.io/credential-id"][0].startswith("JTI=")
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["kubernetes.io"] == {
        "namespace": "n",
        "serviceaccount": {"name": "robot", "uid": "sa-uid"},
        "pod": {"name": "web-1", "uid": "pod-uid"},
        "node": {"name": "m2", "uid": "node-uid"},
    }


def test_a_token_dies_with_its_time_and_is_not_born_early() -> None:
    token, expires = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY, expiration_s=600)
    verifier().verify(token, expires - 1)
    with pytest.raises(TokenError, match="expired"):
        verifier().verify(token, expires)
    with pytest.raises(TokenError, match="not valid yet"):
        verifier().verify(token, NOW - 3600)


def test_a_token_is_for_its_audience_only() -> None:
    token, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY, audiences=["vault", "bank"])
    with pytest.raises(TokenError, match="not for"):
        verifier().verify(token, NOW)
    assert verifier().verify(token, NOW, ["bank", "other"]).audiences == ("bank",)
    own, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    assert verifier().verify(own, NOW).audiences == (DEFAULT_ISSUER,)
    with pytest.raises(TokenError, match="not for"):
        verifier().verify(own, NOW, ["vault"])


def test_another_issuer_or_key_is_not_believed() -> None:
    stranger, _ = Issuer(new_signing_key()[0]).issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    with pytest.raises(TokenError):
        verifier().verify(stranger, NOW)
    elsewhere, _ = Issuer(pki.signing_key()[0], "https://other").issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    with pytest.raises(TokenError, match="unknown issuer"):
        verifier().verify(elsewhere, NOW)


def encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_every_tampered_token_is_refused() -> None:
    token, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    header, body, signature = token.split(".")
    claims = jwt.decode(token, options={"verify_signature": False})
    grown = {**claims, "sub": "system:serviceaccount:kube-system:admin"}
    public = pki.signing_key()[1]
    forged = [
        f"{header}.{encoded(grown)}.{signature}",
        f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{body}.",
        f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(grown)}.{signature}",
        f"{header}.{body}.{signature[:-4]}AAAA",
        f"{header}.{body}.",
        f"{header}.{body}",
        "",
        "a.b.c",
        "x" * 10_000,
        token + ".x",
        encoded({"alg": "HS256"}) + "." + body + "." + signature,
    ]
    for text in forged:
        with pytest.raises(TokenError):
            verifier().verify(text, NOW)
    # The classic: the public key, which everybody has, used as the secret of a symmetric signature.
    hmac_key = base64.urlsafe_b64encode(public).decode()
    with pytest.raises(TokenError):
        verifier().verify(jwt.encode(claims, hmac_key, "HS256"), NOW)
    flipped = body[:10] + ("A" if body[10] != "A" else "B") + body[11:]
    with pytest.raises(TokenError):
        verifier().verify(f"{header}.{flipped}.{signature}", NOW)


@pytest.mark.parametrize(
    "change",
    [
        {"sub": "system:serviceaccount:n:other"},
        {"sub": "system:masters"},
        {"kubernetes.io": {"namespace": "", "serviceaccount": {"name": "", "uid": ""}}},
        {"kubernetes.io": None},
        {"kubernetes.io": {"namespace": "n:robot", "serviceaccount": {"name": "x", "uid": "u"}}},
        {"exp": "never"},
        {"aud": None},
        {"aud": {"a": 1}},
    ],
)
def test_signed_nonsense_is_refused(change: dict[str, Any]) -> None:
    token, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    claims = jwt.decode(token, options={"verify_signature": False})
    signed = jwt.encode({**claims, **change}, pki.signing_key()[0].decode(), "RS256")
    with pytest.raises(TokenError):
        verifier().verify(signed, NOW)


def test_a_token_dies_with_what_it_is_bound_to() -> None:
    token, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY, pod=POD)
    verified = verifier().verify(token, NOW)
    check_bound(verified, cluster(("serviceaccounts", ACCOUNT), ("pods", POD)), NOW)
    reborn = copy.deepcopy(POD)
    reborn["metadata"]["uid"] = "another"
    leaving = copy.deepcopy(POD)
    leaving["metadata"]["deletionTimestamp"] = rfc3339(NOW)
    recreated = copy.deepcopy(ACCOUNT)
    recreated["metadata"]["uid"] = "another"
    for objects in (
        [("pods", POD)],
        [("serviceaccounts", ACCOUNT)],
        [("serviceaccounts", ACCOUNT), ("pods", reborn)],
        [("serviceaccounts", recreated), ("pods", POD)],
    ):
        with pytest.raises(TokenError, match="is gone"):
            check_bound(verified, cluster(*objects), NOW)
    both = cluster(("serviceaccounts", ACCOUNT), ("pods", leaving))
    check_bound(verified, both, NOW + 59)
    with pytest.raises(TokenError, match="has been deleted"):
        check_bound(verified, both, NOW + 61)
    with pytest.raises(TokenError, match="expired"):
        check_bound(verified, cluster(("serviceaccounts", ACCOUNT), ("pods", POD)), NOW + 3600)


def test_a_token_bound_to_a_node_dies_with_it_but_a_pods_does_not() -> None:
    account = ("serviceaccounts", ACCOUNT)
    bound, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY, node=NODE)
    with pytest.raises(TokenError, match="is gone"):
        check_bound(verifier().verify(bound, NOW), cluster(account), NOW)
    check_bound(verifier().verify(bound, NOW), cluster(account, ("nodes", NODE)), NOW)
    pods, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY, pod=POD, node=NODE)
    check_bound(verifier().verify(pods, NOW), cluster(account, ("pods", POD)), NOW)


def test_a_legacy_token_lives_in_its_secret() -> None:
    token = issuer().issue_legacy(ACCOUNT, "robot-token")
    verified = verifier().verify(token, NOW + 1e9)
    assert verified.user.username == "system:serviceaccount:n:robot"
    account = ("serviceaccounts", ACCOUNT)

    def secret(text: str) -> tuple[str, dict[str, Any]]:
        data = {"token": base64.b64encode(text.encode()).decode()}
        return "secrets", {"metadata": {"namespace": "n", "name": "robot-token"}, "data": data}

    check_bound(verified, cluster(account, secret(token)), NOW)
    for objects in ([account], [account, secret("other")], [secret(token)]):
        with pytest.raises(TokenError):
            check_bound(verified, cluster(*objects), NOW)


def test_others_can_verify_by_the_published_keys() -> None:
    token, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    key_set = jwt.PyJWKSet.from_dict(verifier().jwks())
    key = key_set[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(
        token,
        key.key,
        algorithms=["RS256"],
        audience=DEFAULT_ISSUER,
        issuer=DEFAULT_ISSUER,
        options={"verify_iat": False, "verify_nbf": False},
    )
    assert claims["sub"] == "system:serviceaccount:n:robot"
    document = verifier().openid_configuration()
    assert document["issuer"] == DEFAULT_ISSUER
    assert document["jwks_uri"] == DEFAULT_ISSUER + "/openid/v1/jwks"


def test_keys_can_be_rotated() -> None:
    private, public = new_signing_key()
    old, _ = issuer().issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    new, _ = Issuer(private).issue(ACCOUNT, now=NOW, entropy=ENTROPY)
    both = Verifier([public, pki.signing_key()[1]])
    assert both.verify(old, NOW).user == both.verify(new, NOW).user
    assert len(both.jwks()["keys"]) == 2
