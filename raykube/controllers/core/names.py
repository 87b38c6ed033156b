"""Names of what controllers create: like generated ones, but a function of the state in which they were decided."""

from collections.abc import Callable, Container, Iterator
from hashlib import blake2b, sha256

from raykube.base import ids


def derived_names(prefix: str, state: str, taken: Container[str]) -> Iterator[str]:
    """An endless supply of `prefix` + five letters that follow from `state`, without those in `taken`."""
    counter = 0
    while True:
        number = int.from_bytes(sha256(f"{prefix}{state}/{counter}".encode()).digest()[:8], "big")
        counter += 1
        name = prefix[: ids.NAME_LENGTH_MAX - ids.SUFFIX_LENGTH] + _letters(number)
        if name not in taken:
            yield name


def free_names(prefix: str, state: str, is_taken: Callable[[str], bool]) -> Iterator[str]:
    """As `derived_names`, without those that are taken and without repetition: for many in one plan."""
    given: set[str] = set()
    for name in derived_names(prefix, state, given):
        if not is_taken(name):
            given.add(name)
            yield name


def digest(uid: str) -> int:
    """A number for an object; those of a set, added without carry, are one for the state of the set."""
    return int.from_bytes(blake2b(uid.encode(), digest_size=8).digest(), "big")


def _letters(number: int) -> str:
    letters = []
    for _ in range(ids.SUFFIX_LENGTH):
        number, index = divmod(number, len(ids.SUFFIX_ALPHABET))
        letters.append(ids.SUFFIX_ALPHABET[index])
    return "".join(letters)
