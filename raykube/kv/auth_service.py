# ruff: noqa: N802 - methods are named like the RPCs
"""etcd's Auth service: says that it is not enabled, as etcd's own does before somebody enables it.

Clients that come with a user and a password anyway take that answer and go on without. Who may call is decided by
client certificates (`--client-cert-allowed-cn`); users and roles are not implemented.
"""

from typing import Any

from raykube.kv.kv_service import Stamp
from raykube.kv.member import Member
from raykube.pb import etcd_pb2
from raykube.rpc import Code, RpcError


class AuthService:
    """Answers about authentication by password."""

    def __init__(self, member: Member) -> None:
        self._stamp = Stamp(member)

    async def AuthStatus(self, _request: Any, _call: Any) -> Any:
        return self._stamp(etcd_pb2.AuthStatusResponse(authRevision=1))

    async def Authenticate(self, _request: Any, _call: Any) -> Any:
        raise RpcError(Code.FAILED_PRECONDITION, "etcdserver: authentication is not enabled")

    async def AuthEnable(self, _request: Any, _call: Any) -> Any:
        raise RpcError(Code.UNIMPLEMENTED, "users and roles are not implemented: client certificates say who may call")
