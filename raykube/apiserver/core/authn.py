"""Authentication's decisions: from credentials that the shell read off a connection to a user, and to whom they act as.

Order: a client certificate, then a bearer token, then nobody (system:anonymous). A token that does not verify is 401,
even though no token at all would have been a user: whoever shows a token wants to be that one.

*Impersonation*: a user who may `impersonate` another asks by headers to be treated as that one (kubectl --as).
"""

from collections.abc import Callable, Iterable

from raykube.apiserver.core.rbac import Attributes, Decision, failure, forbidden
from raykube.apiserver.core.users import (
    ANONYMOUS,
    AUTHENTICATED,
    UNAUTHENTICATED,
    UserInfo,
    service_account_groups,
    split_service_account,
)

AUTHENTICATION_GROUP = "authentication.k8s.io"
EXTRA_PREFIX = "impersonate-extra-"


def bearer_token(authorization: str | None) -> str:
    """The token of an Authorization header; "" for other schemes and none."""
    scheme, _, token = (authorization or "").strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def certificate_user(user: str, groups: Iterable[str]) -> UserInfo:
    """The user of a verified client certificate: common name and organizations."""
    return UserInfo(user, "", tuple(dict.fromkeys((*groups, AUTHENTICATED))))


def impersonate(
    user: UserInfo, headers: Iterable[tuple[str, str]], authorize: Callable[[Attributes], Decision]
) -> UserInfo:
    """The user that the request wants to be: `user`, unless it carries Impersonate-* headers.

    `headers`: all of the request's, any case. Raises ApiError 400 (no user named) or 403.
    """
    name, uid = "", ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}
    for header, value in headers:
        lower = header.lower()
        if not lower.startswith("impersonate-"):
            continue
        if lower == "impersonate-user":
            name = value
        elif lower == "impersonate-uid":
            uid = value
        elif lower == "impersonate-group":
            groups.append(value)
        elif lower.startswith(EXTRA_PREFIX):
            extra.setdefault(_unescape(lower[len(EXTRA_PREFIX) :]), []).append(value)
    if not name:
        if groups or uid or extra:
            message = "requested groups, uid or extra without impersonating a user"
            raise failure(400, "BadRequest", message, {})
        return user

    def require(resource: str, target: str, group: str = "", namespace: str = "", subresource: str = "") -> None:
        asked = Attributes(user, "impersonate", group, resource, subresource, target, namespace)
        decision = authorize(asked)
        if not decision.allowed:
            raise forbidden(asked, decision)

    account = split_service_account(name)
    if account:
        require("serviceaccounts", account[1], namespace=account[0])
        groups = groups or list(service_account_groups(account[0]))
    else:
        require("users", name)
    requested = groups if not account or tuple(groups) != service_account_groups(account[0]) else []
    for group in requested:
        require("groups", group)
    for key, values in extra.items():
        for value in values:
            require("userextras", value, AUTHENTICATION_GROUP, subresource=key)
    if uid:
        require("uids", uid, AUTHENTICATION_GROUP)
    basic = UNAUTHENTICATED if name == ANONYMOUS else AUTHENTICATED
    if not {AUTHENTICATED, UNAUTHENTICATED} & set(groups):
        groups = [*groups, basic]
    return UserInfo(name, uid, tuple(groups), {key: tuple(values) for key, values in extra.items()})


def _unescape(key: str) -> str:
    """Header names cannot hold every character of an extra key: the rest is percent-encoded."""
    raw = bytearray()
    position = 0
    while position < len(key):
        digits = key[position + 1 : position + 3]
        if key[position] == "%" and len(digits) == 2 and all(char in "0123456789abcdef" for char in digits):
            raw.append(int(digits, 16))
            position += 3
        else:
            raw += key[position].encode()
            position += 1
    return raw.decode("utf-8", "replace")
