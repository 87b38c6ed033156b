"""Continue tokens: where a chunked list goes on, and at which revision."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

import orjson

from raykube.api.errors import ApiError

# A token of this revision goes on with whatever is there now: what a client gets that came too late.
INCONSISTENT = -1

_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without "
    "the continue parameter, or use the continue token in this response to retrieve the remainder of the results. "
    "Continuing with the provided token results in an inconsistent list - objects that were created, modified, or "
    "deleted between the time the first chunk was returned and now may show up in the list."
)


def encode(revision: int, start: str) -> str:
    """The token for a list at `revision` that goes on at key `start`."""
    body = orjson.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": start})
    return urlsafe_b64encode(body).decode().rstrip("=")


def decode(token: str) -> tuple[int, str]:
    """(revision, start key) of a token. Raises ApiError 400."""
    try:
        body = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        if body["v"] != "meta.k8s.io/v1":
            raise ApiError.bad_request(
                f'continue key is not valid: server does not recognize this encoded version "{body["v"]}"'
            )
        revision, start = body["rv"], body["start"]
        if not isinstance(revision, int) or revision == 0 or not isinstance(start, str) or not start:
            raise ValueError("incomplete")
        if not -1 <= revision < 1 << 63 or ".." in start.split("/"):
            raise ValueError("no key or revision of this server")
    except (ValueError, KeyError, TypeError) as error:
        raise ApiError.bad_request(f"continue key is not valid: {error}") from None
    return revision, start


def expired(start: str) -> dict[str, object]:
    """The Status for a token whose revision is gone; it carries a token that goes on without consistency."""
    status = ApiError.expired(_EXPIRED).status()
    status["metadata"] = {"continue": encode(INCONSISTENT, start)}
    return status
