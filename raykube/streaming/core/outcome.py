"""How a session ended: the Status on the error stream of exec and attach (v4 and later)."""

from collections.abc import Mapping
from typing import Any

import orjson

EXIT_CODE = "ExitCode"  # reason of the cause that carries it


def success() -> bytes:
    return orjson.dumps({"metadata": {}, "status": "Success"})


def exited(code: int) -> bytes:
    """The status of a command that ended with `code`."""
    if code == 0:
        return success()
    return orjson.dumps(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"command terminated with non-zero exit code: exit status {code}",
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": EXIT_CODE, "message": str(code)}]},
        }
    )


def failed(message: str) -> bytes:
    """The status of a session that broke: no exit code is known."""
    return orjson.dumps(
        {
            "metadata": {},
            "status": "Failure",
            "message": f"Internal error occurred: {message}",
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }
    )


def exit_code(status: Mapping[str, Any]) -> int | None:
    """The exit code that a Status tells; None when it tells of another failure."""
    if status.get("status") == "Success":
        return 0
    if status.get("reason") != "NonZeroExitCode":
        return None
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == EXIT_CODE and str(cause.get("message", "")).isdigit():
            return int(cause["message"])
    return None
