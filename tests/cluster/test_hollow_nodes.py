"""Nodes of hollow machines that are no more: what a refused deletion means to `up`."""

from collections.abc import Sequence
from typing import Any, Self

import pytest

from raykube.client.operations import Operation, Result
from raykube.cluster import hollow
from raykube.cluster.state import ClusterState
from raykube.rpc import Tls

STATE = ClusterState(name="c", id="f" * 32, subnet=3, local=True, machines=[])
TLS = Tls("", "", "")
SURPLUS = {"metadata": {"name": "hollow-00007", "labels": {hollow.SET_LABEL: "hollow-1"}}}


@pytest.mark.parametrize(("code", "raises"), [(200, False), (404, False), (409, True), (503, True)])
def test_only_a_node_that_is_gone_anyway_may_be_refused(
    monkeypatch: pytest.MonkeyPatch, code: int, raises: bool
) -> None:
    deleted = []

    class Client:
        def __init__(self, *_: object) -> None: ...

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        async def list(self, *_: object, **__: object) -> tuple[list[Any], int]:
            return [SURPLUS], 1

        async def write(self, batch: Sequence[Operation]) -> Sequence[Result]:
            deleted.extend(operation.name for operation in batch)
            return [Result(code=code, body=b'{"kind":"Status","code":%d,"message":"no"}' % code)]

    monkeypatch.setattr(hollow, "ApiClient", Client)
    if raises:
        with pytest.raises(OSError, match=r"are left: no; try again"):
            hollow.forget(STATE, TLS)
    else:
        hollow.forget(STATE, TLS)
    assert deleted == ["hollow-00007"]
