"""The lock on the folder in which a service keeps what it must find again: two on one folder would destroy it."""

import fcntl
import os
from pathlib import Path

LOCK = "lock"


class FolderLock:
    """Held until `close`, or until the process ends, however it ends.

    Makes the folder with `mode` where it is missing. Raises OSError with a line that names the user's way out: `holder`
    is who else may hold it, `flag` names another folder.
    """

    def __init__(self, folder: Path, mode: int, holder: str, flag: str) -> None:
        try:
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make {folder}: {error.strerror}; choose another {flag}") from None
        self._file = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise OSError(f"another {holder} uses {folder}: stop it, or choose another {flag}") from None

    def close(self) -> None:
        """Lets others have the folder; idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
