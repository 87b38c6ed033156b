"""The protocols of upgraded connections, without I/O: bytes in, events out."""
