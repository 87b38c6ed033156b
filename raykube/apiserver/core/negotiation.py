"""Which form of an answer a client asks for with its Accept header, and whether it may be compressed."""

from dataclasses import dataclass
from functools import lru_cache

JSON = "application/json"
YAML = "application/yaml"


@dataclass(frozen=True, slots=True)
class Form:
    """An acceptable form: plain objects, a Table, metadata only, or aggregated discovery."""

    media_type: str = JSON
    kind: str = ""  # "", "Table", "PartialObjectMetadata", "PartialObjectMetadataList", "APIGroupDiscoveryList"
    group: str = ""
    version: str = ""


@lru_cache(maxsize=1024)
def forms(accept: str) -> tuple[Form, ...]:
    """The forms that an Accept header names, best first; other media types are left out.

    An absent header, `*/*` and `application/*` ask for plain JSON.
    """
    ranked: list[tuple[float, int, Form]] = []
    for position, clause in enumerate((accept or "*/*").split(",")):
        media, *parameters = (part.strip() for part in clause.split(";"))
        values = dict(_pair(parameter) for parameter in parameters if parameter)
        media = media.lower()
        if media in ("*/*", "application/*"):
            media = JSON
        if media not in (JSON, YAML):
            continue
        try:
            quality = float(values.get("q", "1"))
        except ValueError:
            quality = 1.0
        form = Form(media, values.get("as", ""), values.get("g", ""), values.get("v", ""))
        if quality > 0:
            ranked.append((-quality, position, form))
    return tuple(form for _, _, form in sorted(ranked, key=lambda entry: entry[:2]))


def _pair(parameter: str) -> tuple[str, str]:
    name, _, value = parameter.partition("=")
    return name.strip().lower(), value.strip().strip('"')


@lru_cache(maxsize=256)
def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip, and not with a quality of 0."""
    for clause in accept_encoding.split(","):
        coding, *parameters = (part.strip().lower() for part in clause.split(";"))
        if coding == "gzip":
            values = dict(_pair(parameter) for parameter in parameters if parameter)
            return values.get("q", "1").strip("0.") != ""
    return False


def choose(accept: str, kinds: tuple[str, ...]) -> Form | None:
    """The first acceptable form that is plain or one of `kinds` in version v1; None: nothing is acceptable."""
    for form in forms(accept):
        if not form.kind:
            return form
        if form.kind in kinds and form.group == "meta.k8s.io" and form.version in ("v1", "v1beta1"):
            return form
    return None
