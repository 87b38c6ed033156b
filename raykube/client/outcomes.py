"""What a bulk call of `Client` comes to: the objects, or the errors of those operations that failed."""

from collections.abc import Sequence

import orjson

from raykube.api.errors import ApiError
from raykube.client.failures import error_of_body
from raykube.client.objects import Object
from raykube.client.operations import Result


class BulkError(Exception):
    """Some operations of a bulk call failed. `errors`: by index; `objects`: the results, None where it failed."""

    def __init__(self, errors: dict[int, ApiError], objects: list[Object | None]) -> None:
        index, first = next(iter(errors.items()))
        super().__init__(f"{len(errors)} of {len(objects)} operations failed, first number {index}: {first}")
        self.errors = errors
        self.objects = objects


def outcome(result: Result) -> Object | ApiError:
    """What one operation came to."""
    if result.code >= 400:
        return error_of_body(result.body, result.code)
    return Object(orjson.loads(result.body) if result.body else {})


def complete(outcomes: Sequence[Object | ApiError]) -> list[Object]:
    """The objects if all is well. Raises one object's error as it is, else BulkError."""
    errors = {index: found for index, found in enumerate(outcomes) if isinstance(found, ApiError)}
    objects = [None if isinstance(found, ApiError) else found for found in outcomes]
    if errors:
        raise errors[0] if len(outcomes) == 1 else BulkError(errors, objects)
    return [found for found in objects if found is not None]
