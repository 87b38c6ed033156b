"""Node selector terms on label columns: an expression becomes a table by label code, and a look-up by row."""

import numpy as np
from numpy.typing import NDArray

from raykube.scheduler.core.nodes import Codes, Mask, NodeTable
from raykube.scheduler.core.requirements import Expression, Requirements, Term

Rows = NDArray[np.intp] | slice
COMPARED_MAX = 4  # comparing all rows with so many values costs less than a look-up for each row


def matches_expression(nodes: NodeTable, expression: Expression, rows: Rows) -> Mask:
    if expression.field:
        return _matches_name(nodes, expression, rows)
    column = nodes.column(expression.key)
    codes = column.codes[rows]
    operator = expression.operator
    if operator == "Exists":
        return codes >= 0
    if operator == "DoesNotExist":
        return codes < 0
    if operator in ("In", "NotIn"):
        known = [code for value in expression.values if (code := column.code_of.get(value)) is not None]
        matched: Mask = _one_of(codes, known, len(column.code_of))
        return ~matched if operator == "NotIn" else matched
    # One entry per value, and a last one for nodes without the label: code -1 finds it.
    table = np.zeros(len(column.code_of) + 1, bool)
    if operator in ("Gt", "Lt"):
        bound = _integer(expression.values[0]) if len(expression.values) == 1 else None
        for value, code in column.code_of.items():
            number = _integer(value)
            if bound is not None and number is not None:
                table[code] = number > bound if operator == "Gt" else number < bound
    return table.take(codes)


def _one_of(codes: Codes, wanted: list[int], count: int) -> Mask:
    """The rows with one of the codes, of which there are `count`."""
    if len(wanted) > COMPARED_MAX:
        table = np.zeros(count + 1, bool)
        table[wanted] = True
        return table.take(codes)
    if not wanted:
        return np.zeros(len(codes), bool)
    found: Mask = codes == wanted[0]
    for code in wanted[1:]:
        found |= codes == code
    return found


def _matches_name(nodes: NodeTable, expression: Expression, rows: Rows) -> Mask:
    named = np.zeros(nodes.capacity, bool)
    if expression.key == "metadata.name":
        for name in expression.values:
            row = nodes.rows.get(name)
            if row is not None:
                named[row] = True
    if expression.operator == "NotIn":
        named = ~named
    return named[rows]


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None


def matches_term(nodes: NodeTable, term: Term, rows: Rows) -> Mask:
    matched = np.full(_length(nodes, rows), bool(term))
    for expression in term:
        matched &= matches_expression(nodes, expression, rows)
    return matched


def matches_affinity(nodes: NodeTable, needs: Requirements, rows: Rows) -> Mask:
    """nodeSelector and required node affinity."""
    matched = np.ones(_length(nodes, rows), bool)
    for key, value in needs.node_selector:
        matched &= matches_expression(nodes, Expression(key, "In", (value,), False), rows)
    if needs.affinity_terms is not None:
        matched &= matches_any(nodes, needs.affinity_terms, rows)
    return matched


def matches_any(nodes: NodeTable, terms: tuple[Term, ...], rows: Rows) -> Mask:
    matched = np.zeros(_length(nodes, rows), bool)
    for term in terms:
        matched |= matches_term(nodes, term, rows)
    return matched


def preference(nodes: NodeTable, needs: Requirements, rows: Rows) -> NDArray[np.float64]:
    """The summed weights of the preferred terms that match."""
    total = np.zeros(_length(nodes, rows))
    for weight, term in needs.preferred_terms:
        if term:
            total += weight * matches_term(nodes, term, rows)
    return total


def pinned_names(needs: Requirements) -> set[str] | None:
    """The only nodes that the required affinity can mean, when every term names some; else None."""
    if not needs.affinity_terms:
        return None
    names: set[str] = set()
    for term in needs.affinity_terms:
        wanted = [set(e.values) for e in term if e.field and e.key == "metadata.name" and e.operator == "In"]
        if not wanted:
            return None
        names |= set.intersection(*wanted)
    return names


def _length(nodes: NodeTable, rows: Rows) -> int:
    return nodes.capacity if isinstance(rows, slice) else len(rows)
