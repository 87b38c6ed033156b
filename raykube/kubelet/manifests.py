"""Where static pods come from: a folder or a file (`--pod-manifest-path`), and a URL (`--manifest-url`).

A source that cannot be read, or a manifest that is none, is named in a log line, once; what was last read of it stays,
so that a file that is only being written ends no pod. A file that is gone ends its pods.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp

from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.staticpods import BadManifest, from_manifest

log = logging.getLogger(__name__)

LOOK_S = 1.0  # at names, sizes and times of files: a changed one is read at once
BYTES_MAX = 10 * 1024 * 1024
TIMEOUT_S = 10.0

Found = Callable[[list[Object]], None]
_Stamp = tuple[int, int, int]  # inode, size, time of change


class ManifestFiles:
    """`found` is called with all pods of the path whenever they changed, and after the first look."""

    def __init__(self, path: Path, node: str, period_s: float, found: Found) -> None:
        self._path = path
        self._node = node
        self._period_s = period_s
        self._found = found
        self._stamps: dict[Path, _Stamp] = {}
        self._pods: dict[Path, list[Object]] = {}
        self._complaint = ""
        self._complaints: dict[Path, str] = {}
        self.seen = asyncio.Event()

    async def run(self) -> None:
        read_at = time.monotonic()
        while True:
            if time.monotonic() - read_at >= self._period_s:
                read_at = time.monotonic()
                self._stamps.clear()  # a change that shows in no stamp
            self.look()
            await asyncio.sleep(min(LOOK_S, self._period_s))

    def look(self) -> None:
        try:
            stamps = self._list()
        except OSError as error:
            complaint = f"static pods stay as they are: {self._path}: {error.strerror}"
            if complaint != self._complaint:
                log.error("%s", complaint)
            self._complaint = complaint
            return
        self._complaint = ""
        changed = not self.seen.is_set()
        for path in self._pods.keys() - stamps.keys():
            del self._pods[path]
            changed = True
        for path, stamp in stamps.items():
            if self._stamps.get(path) != stamp:
                changed |= self._read(path)
        self._stamps = stamps
        if changed:
            self._found([pod for path in sorted(self._pods) for pod in self._pods[path]])
        self.seen.set()

    def _list(self) -> dict[Path, _Stamp]:
        paths = [self._path]
        if self._path.is_dir():
            paths = [path for path in self._path.iterdir() if not path.name.startswith(".")]
        found = {}
        for path in paths:
            try:
                state = path.stat()
            except FileNotFoundError:
                if path == self._path:
                    raise
                continue  # gone between two looks
            if path.is_file():
                found[path] = (state.st_ino, state.st_size, state.st_mtime_ns)
        return found

    def _read(self, path: Path) -> bool:
        """Whether the file's pods changed."""
        old = self._pods.get(path)
        try:
            data = path.read_bytes()
            new = from_manifest(data, "file", str(path), self._node, time.time())
        except (OSError, BadManifest) as error:
            if self._complaints.get(path) != str(error):
                log.error("%s is skipped: %s", path, error)
            self._complaints[path] = str(error)
            return False
        self._complaints.pop(path, None)
        if old is not None and [pod["metadata"]["uid"] for pod in old] == [pod["metadata"]["uid"] for pod in new]:
            return False
        self._pods[path] = new
        return True


class ManifestUrl:
    """`found` is called with all pods of the URL whenever they changed."""

    def __init__(self, url: str, headers: dict[str, str], node: str, period_s: float, found: Found) -> None:
        self._url = url
        self._headers = headers
        self._node = node
        self._period_s = period_s
        self._found = found
        self._data: bytes | None = None
        self._complaint = ""
        self.seen = asyncio.Event()

    async def run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as session:
            while True:
                try:
                    await self._fetch(session)
                    self._complaint = ""
                except (aiohttp.ClientError, TimeoutError, OSError, BadManifest, ValueError) as error:
                    complaint = f"{self._url} is skipped: {error or type(error).__name__}"
                    if complaint != self._complaint:
                        log.error("%s", complaint)
                    self._complaint = complaint
                await asyncio.sleep(self._period_s)

    async def _fetch(self, session: aiohttp.ClientSession) -> None:
        async with session.get(self._url) as response:
            if response.status != 200:
                raise BadManifest(f"the server answered {response.status}")
            data = b""
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) > BYTES_MAX:
                    raise BadManifest(f"it has more than {BYTES_MAX} bytes")
        if data == self._data:
            return
        found = from_manifest(data, "http", self._url, self._node, time.time())
        self._data = data
        self._found(found)
        self.seen.set()
