"""From credentials to users: certificates, tokens, nobody, and acting as another."""

from typing import Any

import pytest

from raykube.api.errors import ApiError
from raykube.apiserver.authn import Authenticator
from raykube.apiserver.core.authn import bearer_token, impersonate
from raykube.apiserver.core.rbac import Attributes, Decision
from raykube.apiserver.core.serviceaccount_token import Issuer, Verifier
from raykube.apiserver.core.users import UserInfo
from raykube.base.clock import FakeClock
from raykube.rpc import Identity
from tests.kit import pki

ACCOUNT = {"metadata": {"namespace": "n", "name": "robot", "uid": "sa-uid"}}


class World:
    """An authenticator over one ServiceAccount, at a time that the test owns."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {("serviceaccounts", "n", "robot"): ACCOUNT}
        private, public = pki.signing_key()
        self.issuer = Issuer(private)
        self.verifications = 0
        verifier = Verifier([public])
        verify = verifier.verify

        def counted(*args: Any) -> Any:
            self.verifications += 1
            return verify(*args)

        verifier.verify = counted  # type: ignore[method-assign]  # counts calls, changes nothing
        self.authenticator = Authenticator(verifier, lambda *key: self.objects.get(key), clock=self.clock)

    def token(self, **more: Any) -> str:
        return self.issuer.issue(ACCOUNT, now=self.clock.now(), entropy=bytes(16), **more)[0]


def refused(act: Any) -> ApiError:
    with pytest.raises(ApiError) as error:
        act()
    return error.value


def test_certificate() -> None:
    user = World().authenticator.authenticate(Identity("alice", ("dev",)), None)
    assert user == UserInfo("alice", "", ("dev", "system:authenticated"))


def test_nobody_is_anonymous_unless_that_is_off() -> None:
    user = World().authenticator.authenticate(None, None)
    assert (user.username, user.groups) == ("system:anonymous", ("system:unauthenticated",))
    assert refused(lambda: Authenticator(anonymous=False).authenticate(None, None)).code == 401


def test_a_token_is_a_user_until_it_expires_or_its_account_goes() -> None:
    world = World()
    header = "Bearer " + world.token()
    for _ in range(3):
        assert world.authenticator.authenticate(None, header).username == "system:serviceaccount:n:robot"
    assert world.verifications == 1
    account = world.objects.pop(("serviceaccounts", "n", "robot"))
    error = refused(lambda: world.authenticator.authenticate(None, header))
    assert (error.code, error.status()["message"]) == (401, "Unauthorized")
    world.objects["serviceaccounts", "n", "robot"] = account
    assert world.authenticator.authenticate(None, header).uid == "sa-uid"
    world.clock.advance(3600)
    assert refused(lambda: world.authenticator.authenticate(None, header)).code == 401


def test_a_bad_token_is_not_nobody() -> None:
    world = World()
    for header in ("Bearer x", "bearer a.b.c", "Bearer " + world.token(audiences=["vault"])):
        assert refused(lambda header=header: world.authenticator.authenticate(None, header)).code == 401
    assert refused(lambda: Authenticator().authenticate(None, "Bearer x")).code == 401
    assert world.authenticator.authenticate(None, "Basic dTpw").username == "system:anonymous"


def test_the_certificate_wins_over_the_token() -> None:
    world = World()
    assert world.authenticator.authenticate(Identity("alice", ()), "Bearer " + world.token()).username == "alice"


def test_token_review() -> None:
    world = World()
    status = world.authenticator.review(world.token(), [])
    assert status["authenticated"] is True
    assert status["user"]["username"] == "system:serviceaccount:n:robot"  # type: ignore[index]  # a JSON object
    assert world.authenticator.review(world.token(), ["vault"])["authenticated"] is False
    vault = world.authenticator.review(world.token(audiences=["vault"]), ["vault", "x"])
    assert vault["audiences"] == ["vault"]


@pytest.mark.parametrize(
    ("header", "token"),
    [(None, ""), ("", ""), ("Bearer", ""), ("Bearer  x ", "x"), ("bearer x", "x"), ("Basic x", ""), ("Bearer\tx", "")],
)
def test_bearer_token(header: str | None, token: str) -> None:
    assert bearer_token(header) == token


ALICE = UserInfo("alice", "", ("system:authenticated",))


class Gate:
    """Allows what is listed and remembers what was asked."""

    def __init__(self, *allowed: tuple[str, str]) -> None:
        self.allowed = allowed
        self.asked: list[Attributes] = []

    def __call__(self, attributes: Attributes) -> Decision:
        assert attributes.verb == "impersonate"
        self.asked.append(attributes)
        return Decision((attributes.resource, attributes.name) in self.allowed)


def test_no_header_no_change() -> None:
    gate = Gate()
    assert impersonate(ALICE, [("Accept", "*/*")], gate) is ALICE
    assert gate.asked == []


def test_acting_as_a_user_of_groups() -> None:
    gate = Gate(("users", "bob"), ("groups", "dev"), ("userextras", "v"), ("uids", "7"))
    headers = [
        ("Impersonate-User", "bob"),
        ("Impersonate-Group", "dev"),
        ("impersonate-extra-Acme.com%2fproject", "v"),
        ("Impersonate-Uid", "7"),
    ]
    user = impersonate(ALICE, headers, gate)
    assert user == UserInfo("bob", "7", ("dev", "system:authenticated"))
    assert user.extra == {"acme.com/project": ("v",)}
    extras = next(asked for asked in gate.asked if asked.resource == "userextras")
    assert (extras.group, extras.subresource) == ("authentication.k8s.io", "acme.com/project")


def test_every_part_needs_its_permission() -> None:
    headers = [("Impersonate-User", "bob"), ("Impersonate-Group", "system:masters")]
    error = refused(lambda: impersonate(ALICE, headers, Gate(("users", "bob"))))
    assert error.status()["message"] == (
        'groups "system:masters" is forbidden: User "alice" cannot impersonate resource "groups" in API group "" '
        "at the cluster scope"
    )
    assert refused(lambda: impersonate(ALICE, headers, Gate(("groups", "system:masters")))).code == 403
    assert refused(lambda: impersonate(ALICE, [("Impersonate-Group", "dev")], Gate())).code == 400


def test_acting_as_a_service_account_brings_its_groups() -> None:
    gate = Gate(("serviceaccounts", "robot"))
    user = impersonate(ALICE, [("Impersonate-User", "system:serviceaccount:n:robot")], gate)
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:n", "system:authenticated")
    assert gate.asked[0].namespace == "n"
    headers = [("Impersonate-User", "system:serviceaccount:n:robot"), ("Impersonate-Group", "system:masters")]
    assert refused(lambda: impersonate(ALICE, headers, gate)).code == 403


def test_acting_as_nobody() -> None:
    user = impersonate(ALICE, [("Impersonate-User", "system:anonymous")], Gate(("users", "system:anonymous")))
    assert user.groups == ("system:unauthenticated",)
