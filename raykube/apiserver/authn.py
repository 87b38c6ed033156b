"""The authenticator of a running apiserver: reads the clock, remembers verified tokens."""

import hashlib
import logging

from raykube.api.errors import ApiError
from raykube.apiserver.core.authn import bearer_token, certificate_user
from raykube.apiserver.core.serviceaccount_token import Lookup, TokenError, Verified, Verifier, check_bound
from raykube.apiserver.core.users import ANONYMOUS_USER, UserInfo
from raykube.base.clock import Clock
from raykube.rpc import Identity
from raykube.rpc.clock import SystemClock

log = logging.getLogger(__name__)

TOKENS_MAX = 10_000


class Authenticator:
    """Turns the credentials of a request into a user.

    A token's signature is checked once and remembered under the token's hash; that it has not expired and that its
    objects still exist (`lookup`) is checked every time. Without a `verifier` no token is accepted.
    """

    def __init__(
        self,
        verifier: Verifier | None = None,
        lookup: Lookup | None = None,
        *,
        anonymous: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._verifier = verifier
        self._lookup: Lookup = lookup or (lambda _plural, _namespace, _name: None)
        self._anonymous = anonymous
        self._clock = clock or SystemClock()
        self._tokens: dict[bytes, Verified] = {}
        self._certificates: dict[Identity, UserInfo] = {}

    def authenticate(self, identity: Identity | None, authorization: str | None = None) -> UserInfo:
        """The user behind a verified client certificate, a bearer token, or neither. Raises ApiError 401."""
        if identity is not None:
            user = self._certificates.get(identity)
            if user is None:
                if len(self._certificates) >= TOKENS_MAX:
                    self._certificates.clear()
                user = self._certificates[identity] = certificate_user(identity.user, identity.groups)
            return user
        token = bearer_token(authorization)
        if token:
            try:
                return self.token_user(token)
            except TokenError as error:
                log.info("refused a bearer token: %s", error)
                raise ApiError.unauthorized() from None
        if self._anonymous:
            return ANONYMOUS_USER
        raise ApiError.unauthorized()

    def token_user(self, token: str) -> UserInfo:
        """The user of a token for the apiserver. Raises TokenError."""
        if self._verifier is None:
            raise TokenError("this apiserver has no key to verify tokens with")
        if not token.isascii():  # a header may hold bytes that are no text at all
            raise TokenError("a token has ASCII characters only")
        now = self._clock.now()
        key = hashlib.sha256(token.encode()).digest()
        verified = self._tokens.get(key)
        if verified is None:
            verified = self._verifier.verify(token, now)
            if len(self._tokens) >= TOKENS_MAX:
                self._tokens.clear()
            self._tokens[key] = verified
        try:
            check_bound(verified, self._lookup, now)
        except TokenError:
            self._tokens.pop(key, None)
            raise
        return verified.user

    def review(self, token: str, audiences: list[str]) -> dict[str, object]:
        """The `status` of a TokenReview."""
        try:
            if self._verifier is None:
                raise TokenError("this apiserver has no key to verify tokens with")
            if not token.isascii():
                raise TokenError("a token has ASCII characters only")
            now = self._clock.now()
            verified = self._verifier.verify(token, now, audiences)
            check_bound(verified, self._lookup, now)
        except TokenError as error:
            return {"authenticated": False, "error": f"invalid bearer token: {error}"}
        return {
            "authenticated": True,
            "user": verified.user.as_object(),
            "audiences": list(verified.audiences),
        }
