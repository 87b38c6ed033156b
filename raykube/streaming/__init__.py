"""Upgraded connections: what exec, attach and port-forward speak, for every hop between a client and a container.

Vocabulary: a *channel* is one of a session's numbered or named byte streams (stdin, stdout, stderr, error, resize);
a *takeover* is a server's connection after its 101; a *splice* copies two upgraded connections into each other; the
*tunnel* is SPDY carried in a WebSocket's binary messages.

    kubectl ── WebSocket v5, v4, tunnel, or SPDY/3.1 ──► apiserver ── the same bytes ──► kubelet ── SPDY/3.1 ──► runtime

`core` speaks the protocols and does no I/O.
"""
