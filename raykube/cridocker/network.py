"""CNI for sandboxes: plugins are run, and what they answered is kept until they took it back.

    <folder>/<sandbox id>.json    {"network": ..., "config": ..., "result": ...}; no "result" while plugins are at work

The file is there before the first plugin runs, so that a crash at any instruction leaves something to undo.
"""

import asyncio
import base64
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from raykube.cridocker.core import cni
from raykube.pb import cri_pb2

Object = dict[str, Any]


class NetworkError(Exception):
    """A plugin failed, or there is none."""


class Networks:
    """The pod network as CNI plugins make it."""

    def __init__(self, files: Path, plugins: list[str], folder: Path) -> None:
        self._files = files
        self._plugins = plugins
        self._folder = folder

    def network(self) -> Object:
        """Raises cni.BadNetwork."""
        texts: dict[str, str] = {}
        with suppress(OSError):
            for path in self._files.iterdir():
                with suppress(OSError, UnicodeDecodeError):
                    texts[path.name] = path.read_text()
        return cni.network(texts)

    def _place(self, sandbox_id: str) -> Path:
        return self._folder / f"{sandbox_id}.json"

    def _load(self, sandbox_id: str) -> Object | None:
        try:
            found: Object = json.loads(self._place(sandbox_id).read_text())
        except (OSError, ValueError):
            return None
        return found

    def _store(self, sandbox_id: str, value: Object) -> None:
        self._folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        fresh = self._place(sandbox_id).with_suffix(".new")
        fresh.write_text(json.dumps(value))
        fresh.replace(self._place(sandbox_id))

    def addresses(self, sandbox_id: str) -> list[str] | None:
        """None: it is not connected."""
        found = self._load(sandbox_id)
        return None if found is None or "result" not in found else cni.addresses(found["result"])

    def known(self) -> list[str]:
        """The sandboxes for which something may be left to undo."""
        with suppress(OSError):
            return [path.stem for path in self._folder.iterdir() if path.suffix == ".json"]
        return []

    async def add(self, sandbox_id: str, namespace: str, config: cri_pb2.PodSandboxConfig) -> None:
        """Connects the network namespace at the path `namespace`. Raises NetworkError."""
        try:
            network = self.network()
        except cni.BadNetwork as error:
            raise NetworkError(f"cni config uninitialized: {error}") from None
        packed = base64.b64encode(config.SerializeToString()).decode()
        record: Object = {"network": network, "config": packed}
        self._store(sandbox_id, record)
        environment = cni.environment("ADD", sandbox_id, namespace, config, self._plugins)
        result: Object | None = None
        for index, plugin in enumerate(network["plugins"]):
            answer = await self._run(plugin["type"], cni.plugin_input(network, index, config, result), environment)
            result = answer or result
        self._store(sandbox_id, record | {"result": result or {}})

    async def remove(self, sandbox_id: str, namespace: str) -> None:
        """Takes back what `add` did, also half of it. Raises NetworkError."""
        record = self._load(sandbox_id)
        if record is None:
            self._place(sandbox_id).unlink(missing_ok=True)
            return
        config = cri_pb2.PodSandboxConfig.FromString(base64.b64decode(record["config"]))
        environment = cni.environment("DEL", sandbox_id, namespace, config, self._plugins)
        network = record["network"]
        for index in reversed(range(len(network["plugins"]))):
            given = cni.plugin_input(network, index, config, record.get("result"))
            await self._run(network["plugins"][index]["type"], given, environment)
        self._place(sandbox_id).unlink(missing_ok=True)

    async def _run(self, plugin: str, given: Object, environment: dict[str, str]) -> Object | None:
        program = next((path for path in (Path(one) / plugin for one in self._plugins) if path.exists()), None)
        if program is None or "/" in plugin:
            raise NetworkError(f'failed to find plugin "{plugin}" in path {self._plugins}')
        child = await asyncio.create_subprocess_exec(
            str(program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(os.environ) | environment,
        )
        out, err = await child.communicate(json.dumps(given).encode())
        try:
            answer: Object | None = json.loads(out) if out.strip() else None
        except ValueError:
            answer = {"msg": out.decode(errors="replace")}
        if child.returncode != 0:
            text = (answer or {}).get("msg") or err.decode(errors="replace").strip()
            raise NetworkError(f'plugin type="{plugin}" failed ({environment["CNI_COMMAND"].lower()}): {text}')
        return answer
