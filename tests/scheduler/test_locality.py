"""Pods are drawn to what they read."""

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raykube.api.inputs import ANNOTATION, INPUTS_MAX, Input, read, written
from raykube.scheduler.core.locality import LARGE_BYTES, scores
from tests.factors.locality import bytes_moved

MB = 1024 * 1024
ROWS = {"a": 0, "10.0.0.1": 0, "b": 1, "10.0.0.2": 1, "c": 2}


def test_the_score_is_bytes_not_moved() -> None:
    found = scores([Input(300 * MB, ("b",)), Input(100 * MB, ("10.0.0.1", "b"))], ROWS, 3)
    assert found == pytest.approx([25, 100, 0])


def test_a_few_bytes_move_nobody() -> None:
    assert scores([Input(1000, ("a",))], ROWS, 3).max() < 0.01
    assert scores([Input(LARGE_BYTES // 2, ("a",))], ROWS, 3) == pytest.approx([50, 0, 0])


def test_a_machine_that_is_known_by_two_names_counts_once() -> None:
    assert scores([Input(100 * MB, ("a", "10.0.0.1"))], ROWS, 3) == pytest.approx([100, 0, 0])


def test_places_that_are_no_nodes_draw_nobody() -> None:
    assert scores([Input(100 * MB, ("z",)), Input(100 * MB, ("a",))], ROWS, 3) == pytest.approx([50, 0, 0])
    assert not scores([], ROWS, 3).any()


inputs = st.builds(
    Input,
    st.integers(1, 10**12),
    st.lists(st.text(max_size=5), min_size=1, max_size=5, unique=True).map(lambda one: tuple(sorted(one))),
    st.text(max_size=5),
)


@given(st.lists(inputs, max_size=INPUTS_MAX))
def test_an_annotation_is_read_as_it_was_written(found: list[Input]) -> None:
    assert list(read({"metadata": {"annotations": {ANNOTATION: written(found)}}})) == found


@given(st.lists(inputs, max_size=8))
def test_scores_order_rows_by_bytes_moved(found: list[Input]) -> None:
    names = sorted({place for one in found for place in one.at})
    rows = {name: row for row, name in enumerate(names)}
    moved = [bytes_moved(found, [name]) for name in names]
    by_score = scores(found, rows, len(names))
    assert np.all(np.diff(by_score[np.argsort(moved, kind="stable")]) <= 1e-9)


junk: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(["bytes", "at", "x"]), children),
    max_leaves=12,
)


@given(junk)
def test_what_makes_no_sense_is_left_out(document: Any) -> None:
    for one in read({"metadata": {"annotations": {ANNOTATION: orjson.dumps(document).decode()}}}):
        assert one.bytes > 0 and one.at
    assert read({"metadata": {"annotations": {ANNOTATION: document}}}) == () or isinstance(document, str)
