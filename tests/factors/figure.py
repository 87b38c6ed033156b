"""One line of the table."""

from typing import NamedTuple


class Figure(NamedTuple):
    """The same work scheduled twice: with the factor and without it."""

    factor: str
    what: str  # what is counted, with its unit; less is better
    without: float
    with_it: float
