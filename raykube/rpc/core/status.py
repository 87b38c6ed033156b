"""Statuses and time-outs as gRPC writes them into headers, and what HTTP's own failures mean as statuses.

Sources: PROTOCOL-HTTP2.md ("Errors", "Timeout", "Status-Message") and http-grpc-status-mapping.md of grpc/grpc.
"""

import math
from urllib.parse import quote_from_bytes, unquote_to_bytes

from raykube.rpc.core.frames import ErrorCode
from raykube.rpc.errors import Code

MESSAGE_BYTES_MAX = 6 * 1024  # of a status message as it is encoded: peers take header lists of 8 KiB
TIMEOUT_DIGITS_MAX = 99_999_999
_UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_FINE_TO_COARSE = (("n", 1e9), ("u", 1e6), ("m", 1e3), ("S", 1.0), ("M", 1 / 60), ("H", 1 / 3600))
# All printable ASCII but the percent sign stands for itself.
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte != 0x25)

_BY_ERROR_CODE = {
    ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCode.CANCEL: Code.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}
_BY_HTTP_STATUS = {
    "400": Code.INTERNAL,
    "401": Code.UNAUTHENTICATED,
    "403": Code.PERMISSION_DENIED,
    "404": Code.UNIMPLEMENTED,
    "429": Code.UNAVAILABLE,
    "502": Code.UNAVAILABLE,
    "503": Code.UNAVAILABLE,
    "504": Code.UNAVAILABLE,
}


def encode_message(text: str) -> bytes:
    """A status message as a header value: UTF-8, percent-encoded where it is not printable ASCII; a long one is cut."""
    value = quote_from_bytes(text[:MESSAGE_BYTES_MAX].encode("utf-8", "replace"), safe=_PLAIN).encode()
    if len(value) > MESSAGE_BYTES_MAX:
        value = value[:MESSAGE_BYTES_MAX]
        escape = value.rfind(b"%", -2)
        value = value[:escape] if escape >= 0 else value
    return value


def decode_message(value: bytes) -> str:
    """The text of a `grpc-message`; what is no percent-encoding or no UTF-8 is kept or replaced, never an error."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


def encode_timeout(seconds: float) -> bytes:
    """`grpc-timeout` of a deadline in `seconds`: the finest unit of at most eight digits, at least 1 ns.

    Whole seconds and milliseconds are written as such, so that equal time-outs make equal header blocks.
    """
    seconds = max(seconds, 1e-9)
    for unit, scale in (("S", 1.0), ("m", 1e3)):
        value = seconds * scale
        if value == int(value) and value <= TIMEOUT_DIGITS_MAX:
            return f"{int(value)}{unit}".encode()
    for unit, scale in _FINE_TO_COARSE:
        value = seconds * scale
        if value <= TIMEOUT_DIGITS_MAX:
            return f"{math.ceil(value)}{unit}".encode()
    return f"{TIMEOUT_DIGITS_MAX}H".encode()


def decode_timeout(value: bytes) -> float:
    """Seconds. Raises ValueError."""
    text = value.decode("ascii", "replace")
    digits, unit = text[:-1], text[-1:]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 8 or unit not in _UNITS_S:
        raise ValueError(f"grpc-timeout {text!r} is not up to eight digits and one of H, M, S, m, u, n")
    return int(digits) * _UNITS_S[unit]


def code_of_reset(code: int) -> Code:
    """The status of a call that the server reset with this HTTP/2 error code."""
    try:
        return _BY_ERROR_CODE.get(ErrorCode(code), Code.INTERNAL)
    except ValueError:
        return Code.UNKNOWN


def code_of_http(status: str) -> Code:
    """The status of a call that was answered by HTTP and not by gRPC."""
    return _BY_HTTP_STATUS.get(status, Code.UNKNOWN)


def code_of_text(text: str) -> Code:
    """`grpc-status`; numbers that are no code are UNKNOWN."""
    try:
        return Code(int(text)) if text.isascii() and text.isdigit() else Code.UNKNOWN
    except ValueError:
        return Code.UNKNOWN
