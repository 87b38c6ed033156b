"""Files of environment variables, as a container leaves them in an emptyDir for another (`fileKeyRef`).

# a comment
NAME='value, which may have
several lines'                # and a comment behind it
EMPTY= 'as a shell reads it: nothing is assigned'
"""

import re

_NAME = re.compile(r"([^=\n]*)=")
_REST = re.compile(r"[ \t]*(#[^\n]*)?(\n|$)")


def value_in(text: str, key: str) -> str | None:
    """The value of `key`, the first of several; None when there is none. Raises ValueError for what cannot be read.

    Nothing behind the key is looked at, and messages hold no values: they may be secrets.
    """
    position, line = 0, 1
    while position < len(text):
        while position < len(text) and text[position] in " \t":
            position += 1
        end = text.find("\n", position)
        end = len(text) if end < 0 else end
        if position == end or text[position] == "#":
            position, line = end + 1, line + 1
            continue
        found = _NAME.match(text, position, end)
        if found is None:
            raise _bad(line, "missing '='")
        name = found.group(1)
        if not name.strip(" \t"):
            raise _bad(line, "empty variable name")
        if name != name.rstrip(" \t"):
            raise _bad(line, "whitespace before '=' is not allowed")
        position = found.end()
        if text[position : position + 1] in (" ", "\t"):
            if name == key:
                return ""
            position, line = end + 1, line + 1
            continue
        if text[position : position + 1] != "'":
            raise _bad(line, "value must be enclosed in single quotes")
        closing = text.find("'", position + 1)
        if closing < 0:
            raise _bad(line, "unclosed single quote")
        value = text[position + 1 : closing]
        line += value.count("\n")
        rest = _REST.match(text, closing + 1)
        if rest is None:
            raise _bad(line, "unexpected content after closing quote")
        if name == key:
            return value
        position, line = rest.end(), line + 1
    return None


def _bad(line: int, why: str) -> ValueError:
    return ValueError(f"invalid environment variable format at line {line}: {why}")
