"""The one error of this package."""


class VolumeFailed(Exception):
    """A volume cannot be made ready now; the message is for an event."""
