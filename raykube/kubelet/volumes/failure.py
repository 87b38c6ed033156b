"""The one error of this package, and how errors are told."""


class VolumeFailed(Exception):
    """A volume cannot be made ready now; the message is for an event."""


def words(error: Exception) -> str:
    """What an event says of it: of an error of the system, which file and why."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    why = error.strerror.lower()
    return f"{error.filename}: {why}" if error.filename else why
