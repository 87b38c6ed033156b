"""A profile: which filters and scores the pods of one schedulerName get, with which weights and arguments."""

from typing import NamedTuple

from raykube.scheduler.core.arguments import DEFAULTS, Arguments
from raykube.scheduler.core.filters import FILTERS
from raykube.scheduler.core.plugin import Filter, Score
from raykube.scheduler.core.scores import SCORES

DEFAULT_NAME = "default-scheduler"
DEFAULT_SCORES = tuple((score, score.weight) for score in SCORES)


class Profile(NamedTuple):
    """One profile; the defaults are upstream's."""

    name: str = DEFAULT_NAME
    filters: tuple[type[Filter], ...] = FILTERS
    scores: tuple[tuple[type[Score], int], ...] = DEFAULT_SCORES
    arguments: Arguments = DEFAULTS
    preempts: bool = True
