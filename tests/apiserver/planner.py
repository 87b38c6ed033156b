"""What a planner sees, from a dictionary."""

from typing import Any

Place = tuple[str, str, str, str]  # group, plural, namespace, name


class Shelf:
    """A `View` of the objects that were put on it."""

    def __init__(self) -> None:
        self.objects: dict[Place, dict[str, Any]] = {}
        self.version = 0

    def put(self, place: Place, obj: dict[str, Any] | None) -> None:
        """Puts an object there; None: takes it away."""
        self.version += 1
        self.objects.pop(place, None)
        if obj is not None:
            self.objects[place] = obj

    def find(self, group: str, plural: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.objects.get((group, plural, namespace, name))

    def every(self, group: str, plural: str, namespace: str = "") -> list[dict[str, Any]]:
        return [
            obj
            for (its_group, its_plural, its_namespace, _), obj in self.objects.items()
            if (its_group, its_plural) == (group, plural) and namespace in ("", its_namespace)
        ]
