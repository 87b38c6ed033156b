"""Images for containers: is it there, who may pull it, pull it, and wait longer after each failure.

Pulls go one after the other unless told otherwise; a failed one is not tried again for 10 s, 20 s, … 5 min, by pod and
image.
"""

import asyncio
import logging
import time
from contextlib import AsyncExitStack

from raykube.api.errors import ApiError
from raykube.client.events import EventRecorder
from raykube.kubelet.core import dockerconfig
from raykube.kubelet.core import pod as pods
from raykube.kubelet.core.dockerconfig import Credentials, Keyring
from raykube.kubelet.core.imagename import ImageName, InvalidImageName, parse
from raykube.kubelet.core.pod import Object
from raykube.kubelet.core.restart_backoff import RestartBackoff
from raykube.kubelet.core.security import ImageFacts
from raykube.kubelet.cri import Cri, failure
from raykube.kubelet.objects import Objects
from raykube.pb import cri_pb2
from raykube.rpc import Code, RpcError

log = logging.getLogger(__name__)

_SPECIAL = ("RegistryUnavailable", "SignatureValidationFailed")  # how a runtime's message begins for these


class ImageFailed(Exception):
    """No image; `reason` is what the container's waiting state says. `retry_at`: not before then."""

    def __init__(self, reason: str, message: str, retry_at: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_at = retry_at


def _shown(seconds: float) -> str:
    """As Go prints a duration, to the millisecond."""
    return f"{int(seconds * 1000)}ms" if seconds < 1 else f"{int(seconds * 1000) / 1000:g}s"


class Images:
    def __init__(self, cri: Cri, objects: Objects, events: EventRecorder, serialize: bool, parallel_max: int) -> None:
        """`parallel_max` 0: any number at once, unless `serialize`."""
        self._cri = cri
        self._objects = objects
        self._events = events
        at_once = 1 if serialize else parallel_max
        self._turn = asyncio.Semaphore(at_once) if at_once else None
        self._backoff = RestartBackoff()
        self._failed_at: dict[str, float] = {}
        self._failures: dict[str, str] = {}

    async def ensure(self, pod: Object, spec: Object, place: str, sandbox: cri_pb2.PodSandboxConfig) -> ImageFacts:
        """The image of a container, pulled if it must be. Raises ImageFailed, RpcError (UNAVAILABLE), ApiError."""
        given = spec.get("image", "")
        try:
            name = parse(given)
        except InvalidImageName as error:
            message = f'Failed to apply default image tag "{given}": {error}'
            self._events.record(pod, "Warning", "InspectFailed", message, place)
            raise ImageFailed("InvalidImageName", message) from None
        image = cri_pb2.ImageSpec(image=name.reference, user_specified_image=given)
        policy = spec.get("imagePullPolicy") or "IfNotPresent"
        if policy != "Always":
            facts = await self._inspect(pod, image, place)
            if facts is not None:
                message = f'Container image "{given}" already present on machine and can be accessed by the pod'
                self._events.record(pod, "Normal", "Pulled", message, place)
                return facts
        if policy == "Never":
            message = f'Container image "{given}" is not present with pull policy of Never'
            self._events.record(pod, "Warning", "ErrImageNeverPull", message, place)
            raise ImageFailed("ErrImageNeverPull", message)
        return await self._pull(pod, name, image, place, sandbox)

    async def _inspect(self, pod: Object, image: cri_pb2.ImageSpec, place: str) -> ImageFacts | None:
        try:
            found = await self._cri.image(image)
        except RpcError as error:
            if error.code is Code.UNAVAILABLE:
                raise
            message = f'Failed to inspect image "{image.user_specified_image}": {failure(error)}'
            self._events.record(pod, "Warning", "InspectFailed", message, place)
            raise ImageFailed("ImageInspectError", message) from None
        return None if found is None else _facts(image, found)

    async def _pull(
        self, pod: Object, name: ImageName, image: cri_pb2.ImageSpec, place: str, sandbox: cri_pb2.PodSandboxConfig
    ) -> ImageFacts:
        given = name.given
        key = f"{pods.uid(pod)}_{given}"
        failed_at = self._failed_at.get(key)
        if failed_at is not None and time.time() < (until := self._backoff.until(key, failed_at)):
            message = f'Back-off pulling image "{given}"'
            self._events.record(pod, "Normal", "BackOff", message, place)
            raise ImageFailed("ImagePullBackOff", f"{message}: {self._failures[key]}", until)
        keyring = await self._keyring(pod)
        self._events.record(pod, "Normal", "Pulling", f'Pulling image "{given}"', place)
        asked = time.monotonic()
        try:
            async with AsyncExitStack() as stack:
                if self._turn is not None:
                    await stack.enter_async_context(self._turn)
                begun = time.monotonic()
                await self._pull_with(keyring.lookup(name.repository), image, sandbox)
            ended = time.monotonic()
            facts = await self._cri.image(image)
        except RpcError as error:
            if error.code is Code.UNAVAILABLE and not await self._cri.answers():
                raise  # it is the runtime that is away, not the registry
            raise self._refused(pod, given, key, failure(error), place) from None
        if facts is None:
            raise self._refused(pod, given, key, "the runtime pulled it, but does not have it", place)
        self._forget(key)
        known = _facts(image, facts)
        message = (
            f'Successfully pulled image "{given}" in {_shown(ended - begun)} ({_shown(ended - asked)} including '
            f"waiting). Image size: {known.size_bytes} bytes."
        )
        self._events.record(pod, "Normal", "Pulled", message, place)
        return known

    def _refused(self, pod: Object, given: str, key: str, why: str, place: str) -> ImageFailed:
        self._events.record(pod, "Warning", "Failed", f'Failed to pull image "{given}": {why}', place)
        reason = next((special for special in _SPECIAL if special in why), "ErrImagePull")
        now = time.time()
        self._backoff.restarted(key, self._failed_at.get(key, now), now)
        self._failed_at[key] = now
        self._failures[key] = f"{reason}: {why}"
        return ImageFailed(reason, why, self._backoff.until(key, now))

    def _forget(self, key: str) -> None:
        self._backoff.forget(key)
        self._failed_at.pop(key, None)
        self._failures.pop(key, None)

    def forget(self, uid: str) -> None:
        """Drops what is known of a pod that is gone."""
        for key in [key for key in self._failed_at if key.startswith(f"{uid}_")]:
            self._forget(key)

    async def _keyring(self, pod: Object) -> Keyring:
        names = [one.get("name") or "" for one in pod["spec"].get("imagePullSecrets") or ()]
        entries: list[dict[str, Credentials]] = []
        missing = []
        sources = None
        if names:
            try:
                sources = await self._objects.sources(pod, {("Secret", name) for name in names})
            except ApiError:
                missing = names
        for name in names if sources is not None else ():
            secret = sources.objects.get(("Secret", name)) if sources is not None else None
            try:
                if secret is None:
                    missing.append(name)
                else:
                    entries.append(dockerconfig.parse(secret))
            except ValueError:
                missing.append(name)
        if missing:
            message = (
                f"Unable to retrieve some image pull secrets ({', '.join(missing)}); attempting to pull the image may "
                "not succeed."
            )
            self._events.record(pod, "Warning", "FailedToRetrieveImagePullSecret", message)
        return Keyring(entries)

    async def _pull_with(
        self, credentials: list[Credentials], image: cri_pb2.ImageSpec, sandbox: cri_pb2.PodSandboxConfig
    ) -> None:
        """Tries one after the other; the last failure is the one that counts."""
        if not credentials:
            await self._cri.pull_image(image, sandbox, None)
            return
        for number, one in enumerate(credentials, 1):
            auth = cri_pb2.AuthConfig(
                username=one.username,
                password=one.password,
                server_address=one.server_address,
                identity_token=one.identity_token,
                registry_token=one.registry_token,
            )
            try:
                await self._cri.pull_image(image, sandbox, auth)
                return
            except RpcError as error:
                if number == len(credentials):
                    raise
                log.debug("the credentials of %s are refused for %s: %s", one.server_address, image.image, error)


def _facts(image: cri_pb2.ImageSpec, found: cri_pb2.Image) -> ImageFacts:
    uid = found.uid.value if found.HasField("uid") else None
    return ImageFacts(image.user_specified_image, image.image, uid, found.username, found.size)
