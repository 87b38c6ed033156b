"""What `raykube status` says of a component, as tests need it."""

from collections.abc import Callable
from typing import Any

from tests.kit.controlplane import until


def pids(status: Callable[[], dict[str, Any]], component: str) -> dict[str, int]:
    """The process of a component on each machine that has one, by the machine's name.

    Waits until all are known: `status` says 0 for what does not answer, and a signal to 0 ends the tests themselves.
    """
    found: dict[str, int] = {}

    def known() -> bool:
        rows = status().get("components", [])
        found.clear()
        found.update({row["machine"]: row["pid"] for row in rows if row["component"] == component})
        return bool(found) and all(found.values())

    until(f"the processes of {component} are known", known, 60)
    return found
