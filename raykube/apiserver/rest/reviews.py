"""Review kinds: questions in the form of objects that are answered and never stored."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from raykube.api.errors import ApiError
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.authz import Authorization
from raykube.apiserver.core.rbac import Attributes
from raykube.apiserver.core.strategy import Object
from raykube.apiserver.core.users import UserInfo
from raykube.apiserver.rest.context import Context
from raykube.apiserver.rest.write import decode_body


class Reviews:
    """Answers reviews."""

    def __init__(self, authenticator: Authenticator, authorization: Authorization) -> None:
        self._authenticator = authenticator
        self._authorization = authorization
        self._kinds: dict[str, Callable[[Context, Object], Awaitable[Object]]] = {
            "selfsubjectaccessreviews": self._self_access,
            "subjectaccessreviews": self._access,
            "localsubjectaccessreviews": self._access,
            "selfsubjectrulesreviews": self._self_rules,
            "tokenreviews": self._token,
            "selfsubjectreviews": self._self,
        }

    async def answer(self, context: Context) -> web.Response:
        """The review with its status filled in."""
        resource = context.target
        answer = self._kinds.get(resource.plural)
        if answer is None:
            raise ApiError.unknown_path()
        review = await decode_body(context, resource, "Ignore")
        review["kind"], review["apiVersion"] = resource.kind, resource.api_version
        review.setdefault("metadata", {})
        review["status"] = await answer(context, review)
        return context.document(review, 201)

    async def _self_access(self, context: Context, review: Object) -> Object:
        return self._decide(context.user, review.get("spec") or {})

    async def _access(self, context: Context, review: Object) -> Object:
        spec = review.get("spec") or {}
        if not spec.get("user") and not spec.get("groups"):
            raise ApiError.bad_request("at least one of user or group must be specified")
        extra = {key: tuple(values) for key, values in (spec.get("extra") or {}).items()}
        user = UserInfo(spec.get("user", ""), spec.get("uid", ""), tuple(spec.get("groups") or ()), extra)
        if context.target.namespaced:
            attributes = spec.get("resourceAttributes") or {}
            if attributes.get("namespace", "") != context.info.namespace:
                raise ApiError.bad_request("spec.resourceAttributes.namespace must match the namespace of the request")
        return self._decide(user, spec)

    def _decide(self, user: UserInfo, spec: Object) -> Object:
        wanted, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
        if bool(wanted) == bool(path):
            raise ApiError.bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified")
        if wanted:
            attributes = Attributes(
                user,
                wanted.get("verb", ""),
                wanted.get("group", ""),
                wanted.get("resource", ""),
                wanted.get("subresource", ""),
                wanted.get("name", ""),
                wanted.get("namespace", ""),
            )
        else:
            attributes = Attributes(user, (path or {}).get("verb", ""), path=(path or {}).get("path", ""))
        decision = self._authorization.decide(attributes)
        status: Object = {"allowed": decision.allowed}
        if decision.reason:
            status["reason"] = decision.reason
        return status

    async def _self_rules(self, context: Context, review: Object) -> Object:
        namespace = (review.get("spec") or {}).get("namespace", "")
        if not namespace:
            raise ApiError.bad_request("no namespace on request")
        return self._authorization.authorizer.rules_for(context.user, namespace)

    async def _token(self, context: Context, review: Object) -> Object:
        spec = review.get("spec") or {}
        if not spec.get("token"):
            raise ApiError.bad_request("token is required for TokenReview in authentication")
        return dict(self._authenticator.review(spec["token"], list(spec.get("audiences") or ())))

    async def _self(self, context: Context, review: Object) -> Object:
        return {"userInfo": context.user.as_object()}
