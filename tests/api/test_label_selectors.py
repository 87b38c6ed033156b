"""Label selectors: the text's grammar, objects, matching, upstream's complaints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.label_selectors import EVERYTHING, NOTHING, LabelSelector


@pytest.mark.parametrize(
    ("text", "labels", "selected"),
    [
        ("", {}, True),
        ("a=b", {"a": "b"}, True),
        ("a==b", {"a": "b"}, True),
        ("a=b", {"a": "c"}, False),
        ("a=b", {}, False),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a=", {"a": ""}, True),
        ("a=,b", {"a": "", "b": "1"}, True),
        ("a in (x, y)", {"a": "y"}, True),
        ("a in (x,y)", {}, False),
        ("a in (,x)", {"a": ""}, True),
        ("a notin (x,y)", {}, True),
        ("a notin (x,y)", {"a": "x"}, False),
        ("a", {"a": ""}, True),
        ("a", {}, False),
        ("!a", {}, True),
        ("!a", {"a": ""}, False),
        ("a>5", {"a": "6"}, True),
        ("a>5", {"a": "5"}, False),
        ("a<5", {"a": "x"}, False),
        ("app.kubernetes.io/name=web, tier notin (db),!legacy", {"app.kubernetes.io/name": "web"}, True),
        ("in in (in,notin)", {"in": "notin"}, True),
    ],
)
def test_matching(text: str, labels: dict[str, str], selected: bool) -> None:
    assert LabelSelector.parse(text).matches(labels) is selected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("=b", "found '=', expected: !, identifier, or 'end of string'"),
        ("a=b,", "found '', expected: identifier after ','"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a foo b", "unable to parse requirement: found 'foo', expected: in, notin, =, ==, !=, gt, lt"),
        (
            "a in ()",
            (
                "unable to parse requirement: values: Invalid value: []: "
                "for 'in', 'notin' operators, values set can't be empty"
            ),
        ),
        ("!=b", "found '!=', expected: !, identifier, or 'end of string'"),
        (
            "a>x",
            (
                'unable to parse requirement: values[0]: Invalid value: "x": '
                "for 'Gt', 'Lt' operators, the value must be an integer"
            ),
        ),
    ],
)
def test_complaints(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r"found|unable") as raised:
        LabelSelector.parse(text)
    assert str(raised.value) == complaint


def test_bad_key_and_value_name_the_rule() -> None:
    with pytest.raises(ValueError, match="name part must consist of alphanumeric"):
        LabelSelector.parse("-a=b")
    with pytest.raises(ValueError, match=r"values\[0\]\[a\]: Invalid value: \"-b\": a valid label must be"):
        LabelSelector.parse("a=-b")


def test_objects() -> None:
    selector = LabelSelector.from_object(
        {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["b", "a"]}]}
    )
    assert selector.matches({"app": "web", "tier": "a"})
    assert not selector.matches({"app": "web"})
    assert str(selector) == "app=web,tier in (a,b)"
    assert selector.exact == {"app": "web"}
    assert LabelSelector.from_object(None) == NOTHING
    assert LabelSelector.from_object({}) == EVERYTHING
    assert not NOTHING.matches({})
    assert EVERYTHING.matches({})
    with pytest.raises(ValueError, match='"Near" is not a valid label selector operator'):
        LabelSelector.from_object({"matchExpressions": [{"key": "a", "operator": "Near"}]})


def test_a_plain_map_without_labels_selects_nothing() -> None:
    assert not LabelSelector.from_map({}).matches({"a": "b"})
    assert LabelSelector.from_map({"a": "b"}).matches({"a": "b", "c": "d"})


KEYS = st.sampled_from(["a", "b", "x.io/c"])
VALUES = st.sampled_from(["", "1", "2", "v"])
TERMS = st.one_of(
    st.builds("{}={}".format, KEYS, VALUES),
    st.builds("{}!={}".format, KEYS, VALUES),
    st.builds("{} in ({},{})".format, KEYS, VALUES, VALUES),
    st.builds("{} notin ({},z)".format, KEYS, VALUES),
    KEYS,
    st.builds("!{}".format, KEYS),
)


@given(st.lists(TERMS, max_size=4), st.dictionaries(KEYS, VALUES))
def test_text_round_trips(terms: list[str], labels: dict[str, str]) -> None:
    selector = LabelSelector.parse(",".join(terms))
    again = LabelSelector.parse(str(selector))
    assert again == selector
    assert again.matches(labels) == all(LabelSelector.parse(term).matches(labels) for term in terms)
