"""Ports for members and servers that are started later, or again."""

from raykube.bench.plane import free_port


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, and none that the kernel gives to a connection before somebody does."""
    found: set[int] = set()
    while len(found) < count:
        found.add(free_port())
    return list(found)
