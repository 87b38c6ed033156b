"""The lock on a member's data directory: two members on the same files would destroy them."""

import fcntl
import os
from pathlib import Path


class DataDir:
    """Made if it is not there, mode 0700, and held until `close`. The lock ends with the process, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise OSError(f"--data-dir={path} cannot be made: {error.strerror}") from None
        self._lock = os.open(path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise OSError(f"{path} is in use by another member: stop it, or give this one its own --data-dir") from None

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
