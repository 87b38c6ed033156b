"""serviceaccount-token-controller: fills Secrets of type kubernetes.io/service-account-token with a token and the CA.

Such a Secret names its ServiceAccount in an annotation. It gets its data once; it goes when its account does.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable

from raykube.controllers.core import indexes, kinds
from raykube.controllers.core.patches import delete_write, patch_write, uid_of
from raykube.controllers.core.plan import Draft, Obj, Plan, Read, View, key_of, split_key

ACCOUNT_UID = "kubernetes.io/service-account.uid"
ISSUER = "kubernetes/serviceaccount"
CLAIM = "kubernetes.io/serviceaccount/"

Sign = Callable[[Obj], str]


def claims_for(account: Obj, secret: Obj) -> Obj:
    """What the token in a Secret states."""
    namespace, name = account["metadata"].get("namespace", ""), account["metadata"]["name"]
    return {
        "iss": ISSUER,
        CLAIM + "namespace": namespace,
        CLAIM + "secret.name": secret["metadata"]["name"],
        CLAIM + "service-account.name": name,
        CLAIM + "service-account.uid": uid_of(account),
        "sub": f"system:serviceaccount:{namespace}:{name}",
    }


class TokenSecretsController:
    """See the module's docstring. `sign` makes a JWT of claims; `certificate` is the CA's PEM, or ""."""

    name = "serviceaccount-token-controller"
    resources = (kinds.SERVICE_ACCOUNTS, kinds.SECRETS)

    def __init__(self, sign: Sign, certificate: str) -> None:
        self._sign, self._certificate = sign, certificate

    def observe(self, view: View, resource: str, old: Obj | None, new: Obj | None, now: float) -> Iterable[str]:
        """The ServiceAccount's key, for a token Secret that of its account."""
        changed = new or old
        if changed is None:
            return ()
        if resource == kinds.SERVICE_ACCOUNTS:
            return (key_of(changed),)
        return indexes.INDEXES[kinds.SECRETS]["account"](changed)

    def reconcile(self, view: View, key: str, now: float) -> Plan:
        """Fills and deletes the token Secrets of one account."""
        namespace, name = split_key(key)
        secrets = [
            secret
            for secret in view.by_index(kinds.SECRETS, "account", key)
            if not secret["metadata"].get("deletionTimestamp")
        ]
        if not secrets:
            return Plan()
        account = view.get(kinds.SERVICE_ACCOUNTS, namespace, name)
        if account is None:
            # A new account and its Secret may arrive in any order: deletion needs certainty.
            read = Read(kinds.SERVICE_ACCOUNTS, namespace, name)
            answer = view.answer(read)
            if answer is None:
                return Plan(reads=[read])
            account = answer[0] if answer else None
        draft = Draft()
        for secret in secrets:
            if account is None or self._is_of_another(secret, account):
                draft.writes.append(delete_write(kinds.SECRETS, secret))
                continue
            body = self._missing(secret, account)
            if body:
                draft.writes.append(patch_write(kinds.SECRETS, secret, body))
        return draft.plan()

    @staticmethod
    def _is_of_another(secret: Obj, account: Obj) -> bool:
        """Whether the Secret was made for an account of the same name that is gone."""
        wanted = (secret["metadata"].get("annotations") or {}).get(ACCOUNT_UID)
        return bool(wanted) and wanted != uid_of(account)

    def _missing(self, secret: Obj, account: Obj) -> Obj:
        data = secret.get("data") or {}
        wanted: dict[str, str] = {}
        if not data.get("token"):
            wanted["token"] = self._sign(claims_for(account, secret))
        if self._certificate and data.get("ca.crt") != _encoded(self._certificate):
            wanted["ca.crt"] = self._certificate
        if not data.get("namespace"):
            wanted["namespace"] = secret["metadata"].get("namespace", "")
        body: Obj = {"data": {name: _encoded(value) for name, value in wanted.items()}} if wanted else {}
        if (secret["metadata"].get("annotations") or {}).get(ACCOUNT_UID) != uid_of(account):
            body["metadata"] = {"annotations": {ACCOUNT_UID: uid_of(account)}}
        return body


def _encoded(text: str) -> str:
    return b64encode(text.encode()).decode()
