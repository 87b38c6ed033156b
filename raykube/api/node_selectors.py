"""Node selectors, as PersistentVolumes and other objects carry them: does one node match?"""

from typing import Any

Object = dict[str, Any]


def matches(selector: Object | None, labels: dict[str, str], name: str = "") -> bool:
    """Whether a node matches a NodeSelector: any of its terms; one without terms matches nothing, None everything."""
    if selector is None:
        return True
    return any(_term(term, labels, name) for term in selector.get("nodeSelectorTerms") or ())


def _term(term: Object, labels: dict[str, str], name: str) -> bool:
    by_label, by_field = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not by_label and not by_field:
        return False
    fields = {"metadata.name": name}
    return all(expression_matches(one, labels) for one in by_label) and all(
        expression_matches(one, fields) for one in by_field
    )


def expression_matches(expression: Object, values: dict[str, str]) -> bool:
    """Whether one requirement holds; NotIn and DoesNotExist hold for a missing key too."""
    value = values.get(expression.get("key", ""))
    wanted: list[str] = expression.get("values") or []
    match expression.get("operator"):
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                number, bound = int(value or ""), int(wanted[0])
            except (ValueError, IndexError):
                return False
            return number > bound if operator == "Gt" else number < bound
    return False
