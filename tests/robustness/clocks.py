"""Clocks that jump while a member runs: the wall's both ways, all of them an hour ahead, as after a machine was moved.

libfaketime stands between the processes and their clocks, and reads how far off they are from a file per member.
"""

import glob
import random
from pathlib import Path

from tests.robustness.network import Impossible

LIBRARY = "/usr/lib/*/faketime/libfaketimeMT.so.1"  # Debian's libfaketime


class Clocks:
    """The false clocks of members, each with a file in a folder."""

    def __init__(self, folder: Path, rng: random.Random) -> None:
        """Raises Impossible without libfaketime."""
        self._library = next(iter(glob.glob(LIBRARY)), "")
        if not self._library:
            raise Impossible("libfaketime is not installed")
        self._folder = folder
        self._rng = rng
        self._wall_only: dict[str, bool] = {}
        self._ahead_s: dict[str, int] = {}

    def environment(self, name: str) -> dict[str, str]:
        """What a member's process that starts now gets: half of them, clocks of which only the wall's is false."""
        self._wall_only[name] = self._rng.random() < 0.5
        self._set(name, 0)
        return {
            "LD_PRELOAD": self._library,
            "FAKETIME_TIMESTAMP_FILE": str(self._file(name)),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": str(int(self._wall_only[name])),
        }

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.clock"

    def jump(self, name: str, seconds: int) -> None:
        """Moves a member's clocks: ahead, or back where it is the wall's alone, as no other ever goes back."""
        is_back = self._wall_only[name] and self._rng.random() < 0.5
        self._set(name, self._ahead_s[name] + (-seconds if is_back else seconds))

    def _set(self, name: str, ahead_s: int) -> None:
        self._ahead_s[name] = ahead_s
        # Written in place of the old one in one go: it is read all the time.
        fresh = self._file(name).with_suffix(".new")
        fresh.write_text(f"{ahead_s:+}")
        fresh.replace(self._file(name))
