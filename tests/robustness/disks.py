"""Disks of the members' own: ext4 on a loop device on a file in memory. They can lose their power, fill up and fail.

    member → ext4 at <folder>/<name> → loop device → <folder>/pools/<name>/image, in a tmpfs of its own

What the kernel has not written to the image when a disk loses its power is gone: `lose_power` goes on with a copy of
the image as it is then. So only what was synced is sure to be there, as on a real machine. A tmpfs without room makes
the device fail: sync answers EIO. It needs root, and the programs mount, umount and mkfs.ext4.
"""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.robustness.network import Impossible, mount_memory, resize_memory, unmount

IMAGE_BYTES = 256 << 20
POOL_BYTES = 3 * IMAGE_BYTES
FAIL_TRIES = 100  # its member writes between a look at what it has and taking the rest away, once or twice
# Nothing is written by itself for a minute, and a rename does not sync what it renames: as little as is allowed.
OPTIONS = "loop,noatime,commit=60,noauto_da_alloc"


class Disk:
    """One member's disk, mounted at `place`."""

    def __init__(self, place: Path) -> None:
        """Makes and mounts it. Raises Impossible."""
        self.place = place
        self._pool = place.parent / "pools" / place.name
        self._image = self._pool / "image"
        self._is_mounted = False
        if os.geteuid() or None in (shutil.which(program) for program in ("mount", "umount", "mkfs.ext4")):
            raise Impossible("disks on loop devices need root, mount and mkfs.ext4")
        mount_memory(self._pool, POOL_BYTES)
        with self._image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        place.mkdir(exist_ok=True)
        self._mount()

    def _mount(self) -> None:
        _run("mount", "-t", "ext4", "-o", OPTIONS, str(self._image), str(self.place))
        self._is_mounted = True

    def lose_power(self) -> None:
        """Goes on with what the device has; its member must not run."""
        copy = self._pool / "copy"
        _run("cp", "--sparse=always", str(self._image), str(copy))
        _run("umount", str(self.place))
        copy.replace(self._image)
        self._mount()

    def fill(self, free_bytes: int) -> None:
        """Leaves only so many bytes free, until `empty`."""
        found = os.statvfs(self.place)
        size = found.f_bavail * found.f_frsize - free_bytes
        if size > 0:
            # Its member may be faster; then it is full all the same.
            with (self.place / "ballast").open("wb") as file, contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, size)

    def empty(self) -> None:
        (self.place / "ballast").unlink(missing_ok=True)

    def fail(self) -> None:
        """The device takes nothing any more that needs a new block, until `repair`. Raises Impossible."""
        for tries_left in reversed(range(FAIL_TRIES)):
            found = os.statvfs(self._pool)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            try:
                resize_memory(self._pool, used)
                break
            except Impossible:
                # Its member goes on writing, and what was read may be too little a moment later.
                if not tries_left:
                    raise

    def repair(self) -> None:
        """The device works again, and is mounted anew; its member must not run."""
        resize_memory(self._pool, POOL_BYTES)
        _run("umount", str(self.place))
        self._mount()

    def close(self, *, keep: bool) -> None:
        """Takes the disk away; with `keep`, what was on it stays to be read."""
        if self._is_mounted:
            if keep:
                shutil.copytree(self.place / "data", self.place.with_suffix(".kept"), dirs_exist_ok=True)
            _run("umount", str(self.place))
            self._is_mounted = False
        unmount(self._pool)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise Impossible(f"{' '.join(command)}: {done.stderr.strip()}")
