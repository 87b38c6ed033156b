# ruff: noqa: N802 - methods are named like the RPCs
"""CRI's ImageService over the Engine API. Images have no owner: all are listed, as CRI asks."""

import base64
import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from raykube.cridocker.core import answers
from raykube.cridocker.engine import Engine, EngineError
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError
from raykube.rpc.server import Call

Object = dict[str, Any]


class ImageHandler:
    """runtime.v1.ImageService. `changed` is called when images came or went."""

    def __init__(self, engine: Engine, pause: str, changed: Callable[[], None]) -> None:
        self._engine = engine
        self._pause = pause
        self._changed = changed

    async def ListImages(self, request: cri_pb2.ListImagesRequest, _call: Call) -> cri_pb2.ListImagesResponse:
        name = request.filter.image.image
        filters = {"reference": [name]} if name else {}
        rows = await self._engine.get("/images/json", filters=filters)
        return cri_pb2.ListImagesResponse(images=[self._image(row) for row in rows])

    def _image(self, found: Object) -> cri_pb2.Image:
        image = answers.image(found)
        image.pinned = self._pause in image.repo_tags
        return image

    async def ImageStatus(self, request: cri_pb2.ImageStatusRequest, _call: Call) -> cri_pb2.ImageStatusResponse:
        try:
            found = await self._engine.get(f"/images/{request.image.image}/json")
        except EngineError as error:
            if error.code is Code.NOT_FOUND:
                return cri_pb2.ImageStatusResponse()
            raise
        response = cri_pb2.ImageStatusResponse(image=self._image(found))
        if request.verbose:
            response.info["imageSpec"] = json.dumps(found.get("Config") or {})
        return response

    async def PullImage(self, request: cri_pb2.PullImageRequest, _call: Call) -> cri_pb2.PullImageResponse:
        name, tag = answers.split_reference(request.image.image)
        headers = {"X-Registry-Auth": _auth(request.auth)}
        async for told in self._engine.lines("POST", "/images/create", headers, fromImage=name, tag=tag):
            if "error" in told:
                raise RpcError(Code.UNKNOWN, str(told["error"]))
        self._changed()
        found = answers.image(await self._engine.get(f"/images/{request.image.image}/json"))
        return cri_pb2.PullImageResponse(image_ref=found.repo_digests[0] if found.repo_digests else found.id)

    async def RemoveImage(self, request: cri_pb2.RemoveImageRequest, _call: Call) -> cri_pb2.RemoveImageResponse:
        """All its names: one name would only be taken off an image that has others."""
        try:
            found = answers.image(await self._engine.get(f"/images/{request.image.image}/json"))
        except EngineError as error:
            if error.code is Code.NOT_FOUND:
                return cri_pb2.RemoveImageResponse()
            raise
        for name in [*found.repo_tags, *found.repo_digests, found.id]:
            try:
                await self._engine.delete(f"/images/{name}")
            except EngineError as error:
                if error.code is not Code.NOT_FOUND:
                    raise
        self._changed()
        return cri_pb2.RemoveImageResponse()

    async def ImageFsInfo(self, _request: cri_pb2.ImageFsInfoRequest, _call: Call) -> cri_pb2.ImageFsInfoResponse:
        used = 0
        with suppress(EngineError):  # another count is under way: docker does one at a time
            used = (await self._engine.get("/system/df")).get("LayersSize") or 0
        usage = cri_pb2.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=cri_pb2.FilesystemIdentifier(mountpoint=self._engine.info["DockerRootDir"]),
            used_bytes=cri_pb2.UInt64Value(value=used),
        )
        return cri_pb2.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])


def _auth(auth: cri_pb2.AuthConfig) -> str:
    """The header X-Registry-Auth: JSON in URL-safe base64; docker wants one even when there is nothing to say."""
    username, password = auth.username, auth.password
    if auth.auth and not username:
        with suppress(ValueError):
            username, _, password = base64.b64decode(auth.auth).decode().partition(":")
    values = {
        "username": username,
        "password": password,
        "serveraddress": auth.server_address,
        "identitytoken": auth.identity_token,
        "registrytoken": auth.registry_token,
    }
    return base64.urlsafe_b64encode(
        json.dumps({key: value for key, value in values.items() if value}).encode()
    ).decode()
