"""Names of images: `[REGISTRY/]PATH[:TAG][@DIGEST]`, completed the way every runtime does.

busybox            → docker.io/library/busybox, tag latest
me/app@sha256:…    → docker.io/me/app, no tag
localhost:5000/a:1 → localhost:5000/a, tag 1
"""

import re
from dataclasses import dataclass

DEFAULT_REGISTRY = "docker.io"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_NAME = re.compile(
    rf"(?P<domain>{_DOMAIN})/(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}))?",
    re.ASCII,
)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}")
NAME_LENGTH_MAX = 255


class InvalidImageName(ValueError):
    """No image can have this name; the message says why."""


@dataclass(frozen=True, slots=True)
class ImageName:
    given: str
    repository: str  # with the registry
    tag: str
    digest: str

    @property
    def reference(self) -> str:
        """What to ask the runtime for: as given, with the tag `latest` where it names none."""
        return self.given if self.tag or self.digest else f"{self.given}:latest"


def parse(name: str) -> ImageName:
    """Raises InvalidImageName."""

    def refuse(why: str) -> InvalidImageName:
        return InvalidImageName(f'couldn\'t parse image name "{name}": {why}')

    if _IDENTIFIER.fullmatch(name):
        raise refuse(f"invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")
    first, slash, rest = name.partition("/")
    if not slash or (not any(mark in first for mark in ".:") and first != "localhost" and first.lower() == first):
        domain, remainder = DEFAULT_REGISTRY, name
    else:
        domain, remainder = first, rest
    if domain == "index.docker.io":
        domain = DEFAULT_REGISTRY
    if domain == DEFAULT_REGISTRY and "/" not in remainder:
        remainder = f"library/{remainder}"
    path = remainder.partition("@")[0].partition(":")[0]
    if path.lower() != path:
        raise refuse(f"invalid reference format: repository name ({path}) must be lowercase")
    match = _NAME.fullmatch(f"{domain}/{remainder}")
    if match is None:
        raise refuse("invalid reference format")
    if len(match["path"]) > NAME_LENGTH_MAX:
        raise refuse(f"repository name must not be more than {NAME_LENGTH_MAX} characters")
    return ImageName(name, f"{match['domain']}/{match['path']}", match["tag"] or "", match["digest"] or "")
