"""A stub of the runtime's services whose calls are counted: how many, how long, how many failed."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

Note = Callable[[str, float, bool], None]  # operation, seconds, whether it failed

STREAMS = {"GetContainerEvents"}  # for as long as the kubelet lives


def operation(method: str) -> str:
    """`RunPodSandbox` → `run_podsandbox`: the name that upstream's metrics have for it."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", method).lower().replace("pod_sandbox", "podsandbox")


class Counted:
    """Calls of `stub` with `note` told of each."""

    def __init__(self, stub: Any, note: Note) -> None:
        self._stub = stub
        self._note = note

    def __getattr__(self, method: str) -> Any:
        call = getattr(self._stub, method)
        if method not in STREAMS:
            call = self._counted(operation(method), call)
        setattr(self, method, call)  # the next time it is found without this
        return call

    def _counted(self, name: str, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*arguments: Any, **options: Any) -> Any:
            begun = time.monotonic()
            failed = True
            try:
                answer = await call(*arguments, **options)
                failed = False
                return answer
            finally:
                self._note(name, time.monotonic() - begun, failed)

        return counted
