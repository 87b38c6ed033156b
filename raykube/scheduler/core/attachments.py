"""How many volumes of each CSI driver a node can have at once, as its CSINode says."""

from typing import Any

Object = dict[str, Any]


class AttachmentLimits:
    """Driver → node → volumes; a node that says nothing of a driver is not limited."""

    def __init__(self) -> None:
        self.of_driver: dict[str, dict[str, int]] = {}

    def set_csi_node(self, name: str, obj: Object | None) -> bool:
        """A CSINode as it is now (None: gone); whether a limit changed."""
        before = {driver: nodes.pop(name) for driver, nodes in self.of_driver.items() if name in nodes}
        after = {
            driver["name"]: int(driver["allocatable"]["count"])
            for driver in ((obj or {}).get("spec") or {}).get("drivers") or ()
            if (driver.get("allocatable") or {}).get("count") is not None
        }
        for driver, count in after.items():
            self.of_driver.setdefault(driver, {})[name] = count
        return before != after
