"""Selectors: which objects a list, a watch or a controller means. Labels in one room, fields in the other."""

from raykube.api.field_selectors import (
    ALL_FIELDS,
    FieldRequirement,
    FieldSelector,
    check_supported,
    selectable_fields,
)
from raykube.api.label_selectors import EVERYTHING, NOTHING, LabelSelector, Requirement

__all__ = [
    "ALL_FIELDS",
    "EVERYTHING",
    "NOTHING",
    "FieldRequirement",
    "FieldSelector",
    "LabelSelector",
    "Requirement",
    "check_supported",
    "selectable_fields",
]
