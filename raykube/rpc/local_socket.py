"""The unix socket of a service that runs programs for whoever may talk to it: for its own user and root alone."""

import os
from pathlib import Path

from raykube.rpc.listen import socket_folder_flaw
from raykube.rpc.server import Server

SOCKET_PATH_BYTES_MAX = 107  # sun_path of the kernel, without the final zero


def check_unix_endpoint(endpoint: str, flag: str) -> None:
    """Raises ValueError for an endpoint that is no unix socket."""
    if not endpoint.startswith(("unix:", "/")):
        raise ValueError(f"{flag} must be a unix socket, as unix:///run/example.sock; not {endpoint!r}")


class LocalSocket:
    """`endpoint` is a path or unix:PATH; `flag` gave it. Who listens holds the lock of the service's folder."""

    def __init__(self, endpoint: str, flag: str) -> None:
        self.path = Path(endpoint.removeprefix("unix:").removeprefix("//")).absolute()
        self._endpoint = endpoint
        self._flag = flag

    def check(self) -> None:
        """Raises ValueError for an endpoint that cannot be listened on."""
        check_unix_endpoint(self._endpoint, self._flag)
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(f"{self._flag}: the path {self.path} is longer than {SOCKET_PATH_BYTES_MAX} bytes")

    def make_folder(self) -> None:
        """Raises OSError where the socket's folder cannot be made, or where others could put a socket of theirs."""
        folder = self.path.parent
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"cannot make {error.filename}: {error.strerror}; choose another {self._flag}") from None
        if flaw := socket_folder_flaw(folder.resolve()):
            raise OSError(f"{self._flag}: {folder} {flaw}: choose another folder")

    def listen(self, server: Server) -> None:
        """Takes the place of a socket that a killed process left."""
        self.path.unlink(missing_ok=True)
        old_mask = os.umask(0o177)
        try:
            server.listen(f"unix:{self.path}")
        finally:
            os.umask(old_mask)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
