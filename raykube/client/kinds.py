"""Kinds by the names that people type: `pods`, `pod`, `po`, `Deployment`, `deployments.apps`, `jobs.v1.batch`."""

from functools import lru_cache

from raykube.api.resources import Resource, all_resources


@lru_cache(maxsize=1)
def _names() -> dict[str, list[Resource]]:
    found: dict[str, list[Resource]] = {}
    for resource in all_resources():
        for name in {resource.plural, resource.singular, resource.kind.lower(), *resource.short_names}:
            found.setdefault(name.lower(), []).append(resource)
    return found


def resource_named(text: str) -> Resource:
    """The resource of a kind's name; of several the first in the API's order (core first). Raises ValueError."""
    name, _, qualifier = text.lower().partition(".")
    for resource in _names().get(name, ()):
        if qualifier in ("", resource.group, f"{resource.version}.{resource.group}".rstrip("."), resource.version):
            return resource
    raise ValueError(f'the server doesn\'t have a resource type "{text}"')


def split_name(text: str) -> tuple[str, str]:
    """`deployment/web` → ("deployment", "web"). Raises ValueError."""
    kind, slash, name = text.partition("/")
    if not slash or not kind or not name or "/" in name:
        raise ValueError(f"{text!r} is not KIND/NAME, like 'deployment/web'")
    return kind, name
