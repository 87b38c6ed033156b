"""Transcripts: files of commands and the outputs that they must have.

    # a comment stays where it is
    command argument argument
    more input
    ----
    output

Blocks are separated by blank lines. With `--rewrite` the outputs are written anew, for a person to read the diff.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SEPARATOR = "----"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a transcript."""

    command: str
    arguments: list[str]
    body: list[str]  # input lines below the command


def play(path: Path, handle: Callable[[Step], str], rewrite: bool) -> None:
    """Gives each command to `handle` and compares its output with the file's."""
    played = []
    for block in path.read_text().strip("\n").split("\n\n"):
        lines = block.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        if not rest:
            played.append(block)
            continue
        given = rest[: rest.index(SEPARATOR)] if SEPARATOR in rest else rest
        command, *arguments = given[0].split()
        output = handle(Step(command, arguments, given[1:])).rstrip("\n")
        played.append("\n".join([*comments, *given, SEPARATOR, *([output] if output else [])]))
    text = "\n\n".join(played) + "\n"
    if rewrite:
        path.write_text(text)
    else:
        assert text == path.read_text(), f"{path} differs; pytest --rewrite writes it anew"
