"""Programs that run beside the runtime, one interpreter each, started by file name with `python -I -S`.

They import the standard library and each other only: what they load, every container of the machine pays for in
memory. Nothing in raykube imports them.

- `start.py` → `shim.py`: the parent of one container's process.
- `enter.py`: runs one command inside a container's namespaces.
- `namespaces.py`: the system calls that both need.
"""
