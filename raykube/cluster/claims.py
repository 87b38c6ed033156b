"""Claims on slices of 127.0.0.0/8: two `up` at the same moment must not take the same one.

A claim is an abstract unix socket: it lives in the network namespace, as the loopback addresses do, is seen by every
user, and goes when its process ends, however it ends. It is held until the cluster's own ports show that it is there.
"""

import socket


class Taken(OSError):
    """Another process holds the claim."""


def claim(subnet: int) -> socket.socket:
    """Claims 127.`subnet`.0.0/16 until the socket is closed. Raises Taken."""
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(f"\0raykube-127.{subnet}")
    except OSError:
        held.close()
        raise Taken(f"another cluster starts on 127.{subnet}.0.0/16 now: try again when it is up") from None
    return held
