"""Names of what controllers create: like generated ones, but a function of the state in which they were decided."""

from collections.abc import Container, Iterator
from hashlib import sha256

from raykube.base import ids


def derived_names(prefix: str, state: str, taken: Container[str]) -> Iterator[str]:
    """An endless supply of `prefix` + five letters that follow from `state`, without those in `taken`."""
    counter = 0
    while True:
        digest = int.from_bytes(sha256(f"{prefix}{state}/{counter}".encode()).digest()[:8], "big")
        counter += 1
        name = prefix[: ids.NAME_LENGTH_MAX - ids.SUFFIX_LENGTH] + _letters(digest)
        if name not in taken:
            yield name


def _letters(number: int) -> str:
    letters = []
    for _ in range(ids.SUFFIX_LENGTH):
        number, index = divmod(number, len(ids.SUFFIX_ALPHABET))
        letters.append(ids.SUFFIX_ALPHABET[index])
    return "".join(letters)
