"""Failures to reach a server, in the words in which Kubernetes shows them: `dial tcp 10.0.0.1:10250: connect: ...`."""

import os
import socket
import ssl
from urllib.parse import urlsplit

import aiohttp


def dial_failure(url: str, error: Exception) -> str:
    """Why there is no connection to the server at `url`: the address and the system's words, without its numbers."""
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError):
        error = error.os_error
    if isinstance(error, ssl.SSLError | ConnectionResetError | aiohttp.ClientOSError):
        return str(error)  # it was reached
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    dialled = f"dial tcp {host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {parts.hostname}: no such host"
    if isinstance(error, TimeoutError) and not error.errno:
        return f"{dialled}: i/o timeout"
    if isinstance(error, OSError) and error.errno:
        # asyncio puts its own words and the address in the place of the system's.
        words = os.strerror(error.errno).lower()
        return f"{dialled}: connect: {words}"
    return str(error) or f"{dialled}: i/o timeout"
