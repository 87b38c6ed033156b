"""Which nodes hold which images, and how large they are, as nodes report it (Node.status.images)."""

from typing import Any


class ImageTable:
    """Image name → row → bytes."""

    def __init__(self) -> None:
        self.revision = 0  # raised by every change
        self._held: dict[str, dict[int, int]] = {}
        self._reported: dict[int, list[dict[str, Any]]] = {}

    def set_row(self, row: int, images: list[dict[str, Any]]) -> None:
        """What the node of a row holds now; nothing for a node that is gone."""
        before = self._reported.get(row, [])
        if before == images:
            return
        self.revision += 1
        for image in before:
            for name in image.get("names") or ():
                held = self._held.get(name, {})
                held.pop(row, None)
                if not held:
                    self._held.pop(name, None)
        for image in images:
            for name in image.get("names") or ():
                self._held.setdefault(name, {})[row] = int(image.get("sizeBytes") or 0)
        if images:
            self._reported[row] = images
        else:
            self._reported.pop(row, None)

    def holders(self, name: str) -> dict[int, int]:
        """The rows that hold an image, with its size there."""
        return self._held.get(name, {})
