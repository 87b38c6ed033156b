"""What became of an operation, as its client is told."""

import logging
from dataclasses import dataclass

import orjson

from raykube.api.errors import ApiError
from raykube.apiserver.core.planning import Operation

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """The answer to one operation. `body` is complete JSON; for an error it is a Status."""

    code: int
    body: bytes
    revision: int = 0
    warnings: tuple[str, ...] = ()


def failed(error: ApiError, op: Operation) -> Outcome:
    """The answer to an operation that was refused."""
    return Outcome(error.code, orjson.dumps(error.status()), 0, tuple(op.warnings))


def broken(op: Operation) -> Outcome:
    """The answer to an operation whose planning raised what it should not: one is no reason to fail the others."""
    log.exception("cannot plan %s of %s %s", op.verb, op.resource.plural, op.name)
    return failed(ApiError.internal("the server could not carry out this write"), op)


def not_alone(op: Operation) -> Outcome:
    """The answer to an operation that was to go together with one that was refused."""
    return failed(ApiError.conflict(op.resource, op.name, "another operation of the same request was refused"), op)
