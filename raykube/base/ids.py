"""Identifiers: uids and the random suffixes of generated names.

Randomness comes in as bytes or as a drawing function."""

from collections.abc import Callable

# Kubernetes' alphabet for generated names: no vowels and no look-alikes, so that no word appears by accident.
SUFFIX_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
SUFFIX_LENGTH = 5
NAME_LENGTH_MAX = 63


def uid(entropy: bytes) -> str:
    """A version 4 UUID of 16 random bytes."""
    digits = entropy[:16].hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def name_suffix(below: Callable[[int], int], length: int = SUFFIX_LENGTH) -> str:
    """`length` letters of Kubernetes' alphabet. `below(n)` draws a number in 0..n-1."""
    return "".join(SUFFIX_ALPHABET[below(len(SUFFIX_ALPHABET))] for _ in range(length))


def generate_name(prefix: str, below: Callable[[int], int]) -> str:
    """`metadata.generateName` → a name: the prefix cut so that the suffix fits in 63 characters."""
    return prefix[: NAME_LENGTH_MAX - SUFFIX_LENGTH] + name_suffix(below)


def fnv32a(data: bytes) -> int:
    """FNV-1a, 32 bits: the hash behind pod-template-hash."""
    value = 0x811C9DC5
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def safe_encode(text: str) -> str:
    """Maps a decimal hash onto the name alphabet, as `pod-template-hash` values are written."""
    return "".join(SUFFIX_ALPHABET[ord(char) % len(SUFFIX_ALPHABET)] for char in text)
