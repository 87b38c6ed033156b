"""The runtime's durable state: a directory per container, a file per sandbox.

    ROOT/addresses.json                last allocated pod address
    ROOT/sandboxes/ID.json
    ROOT/sandboxes/ID.resolv.conf      for pods with a DNS configuration
    ROOT/containers/ID/container.json  written once, by us
    ROOT/containers/ID/spec            for the shim; holds the environment, so only its owner may read it
    ROOT/containers/ID/{claim,started.json,exit.json}   the shim's, see process/shim.py
    ROOT/containers/ID/scratch/        empty; a place to mount on

Every file appears complete or not at all. Nothing is fsynced: what a power cut loses has no process any more.
"""

import json
import logging
import marshal
import os
import shutil
from pathlib import Path
from typing import Any

from raykube.runtime.core.records import Container, Ended, Sandbox, Started

log = logging.getLogger(__name__)


def write_json(path: Path, value: Any) -> None:
    """Creates or replaces a file that only its owner may read."""
    temporary = path.with_name(f".{path.name}.new")
    handle = os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        json.dump(value, file)
    os.rename(temporary, path)


def read_json(path: Path) -> Any:
    """The value in a file, None when there is no such file. Raises ValueError when it is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None


class Store:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._sandboxes = root / "sandboxes"
        self._containers = root / "containers"
        for directory in (root, self._sandboxes, self._containers):
            directory.mkdir(mode=0o711, parents=True, exist_ok=True)

    def directory(self, container_id: str) -> Path:
        return self._containers / container_id

    def load(self) -> tuple[list[Sandbox], list[Container]]:
        """Everything that was written down. A record that cannot be read is logged and left alone."""
        sandboxes, containers = [], []
        for path in self._sandboxes.glob("*.json"):
            try:
                sandboxes.append(Sandbox.decode(read_json(path)))
            except (ValueError, KeyError, TypeError) as error:
                log.error("ignoring the damaged sandbox record %s: %s", path, error)
        for directory in self._containers.iterdir():
            try:
                record = read_json(directory / "container.json")
                if record is None:  # the runtime died while it created or removed this one
                    self.remove_container(directory.name)
                    continue
                container = Container.decode(record)
                container.started = self.started(container.id)
                container.ended = self.ended(container.id)
                containers.append(container)
            except (ValueError, KeyError, TypeError) as error:
                log.error("ignoring the damaged container record %s: %s", directory, error)
        return sandboxes, containers

    def put_sandbox(self, sandbox: Sandbox) -> None:
        write_json(self._sandboxes / f"{sandbox.id}.json", sandbox.encode())

    def remove_sandbox(self, sandbox_id: str) -> None:
        (self._sandboxes / f"{sandbox_id}.json").unlink(missing_ok=True)
        self.resolver_file(sandbox_id).unlink(missing_ok=True)

    def resolver_file(self, sandbox_id: str) -> Path:
        """The sandbox's /etc/resolv.conf, where it has one of its own."""
        return self._sandboxes / f"{sandbox_id}.resolv.conf"

    def put_resolver(self, sandbox_id: str, text: str) -> None:
        path = self.resolver_file(sandbox_id)
        path.write_text(text)
        path.chmod(0o644)

    def put_container(self, container: Container) -> None:
        directory = self.directory(container.id)
        # Others may pass through: inside a container, where this user is another one, the scratch must be reachable.
        directory.mkdir(mode=0o711, exist_ok=True)
        (directory / "scratch").mkdir(exist_ok=True)
        write_json(directory / "container.json", container.encode())

    def put_spec(self, container_id: str, spec: dict[str, Any]) -> None:
        handle = os.open(self.directory(container_id) / "spec", os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "wb") as file:
            marshal.dump(spec, file)  # the shim reads it with this same interpreter

    def remove_container(self, container_id: str) -> None:
        directory = self.directory(container_id)
        # The record goes first: a removal that is cut short is finished at the next start.
        (directory / "container.json").unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)

    def claim(self, container_id: str) -> dict[str, Any] | None:
        """The shim that was started for a container, if one was."""
        try:
            record = read_json(self.directory(container_id) / "claim")
        except ValueError:  # the shim died while it wrote
            return {"shim_pid": 0, "shim_start": 0, "boot": ""}
        return record if record is None else dict(record)

    def started(self, container_id: str) -> Started | None:
        record = read_json(self.directory(container_id) / "started.json")
        return None if record is None else Started(**record)

    def ended(self, container_id: str) -> Ended | None:
        record = read_json(self.directory(container_id) / "exit.json")
        return None if record is None else Ended(**record)

    def put_ended(self, container_id: str, ended: Ended) -> None:
        """For a shim that could not write it itself."""
        record = {name: getattr(ended, name) for name in Ended.__slots__}
        write_json(self.directory(container_id) / "exit.json", record)

    def last_address(self) -> str:
        try:
            return str((read_json(self._root / "addresses.json") or {}).get("last", ""))
        except ValueError:
            return ""

    def put_last_address(self, address: str) -> None:
        write_json(self._root / "addresses.json", {"last": address})
