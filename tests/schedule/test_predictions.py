"""Predictions: their checks, and the schedules and files that hold them."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import random_schedule

from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions

STEPS, BRANCHES = 6, 4


@st.composite
def predicted_schedules(draw: st.DrawFn) -> CacheSchedule:
    """A random schedule, some of whose reused cells are predicted from any earlier evaluations."""
    schedule = random_schedule(STEPS, BRANCHES, seed=draw(st.integers(0, 999)))
    numbers = st.floats(-1e6, 1e6)
    terms = {}
    for s, k in np.argwhere(~schedule.compute).tolist():
        sources = draw(st.lists(st.integers(0, s - 1), max_size=3, unique=True))
        if sources:
            terms[s, k] = [(q, draw(numbers)) for q in sources]
    predictions = Predictions.from_terms(STEPS, BRANCHES, terms)
    one = predictions.coefficients[0]
    lanes = draw(st.sampled_from([[one], [one, -one], [one, 0.5 * one, one + 1.0]]))
    predictions = Predictions(predictions.sources, np.stack(lanes))
    return CacheSchedule(schedule.compute, predictions=predictions)


@given(predicted_schedules())
def test_files_and_copies_hold_the_same_predictions(tmp_path_factory, schedule) -> None:
    path = tmp_path_factory.mktemp("schedules") / "predicted.json"
    schedule.save(path)
    for other in (
        CacheSchedule.load(path),
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
    ):
        assert other == schedule
        assert other.digest == schedule.digest
        assert other.predictions == schedule.predictions


def test_a_schedule_with_predictions_is_another_one_than_without() -> None:
    plain = random_schedule(STEPS, BRANCHES, share=0.9)
    s, k = np.argwhere(~plain.compute)[-1].tolist()
    predicted = [
        CacheSchedule(
            plain.compute,
            predictions=Predictions.from_terms(STEPS, BRANCHES, {(s, k): [(0, number)]}),
        )
        for number in (2.0, 3.0)
    ]
    assert len({plain.digest, *(schedule.digest for schedule in predicted)}) == 3
    assert plain != predicted[0] != predicted[1]


def test_lanes_are_of_the_same_terms_and_few() -> None:
    sources = np.zeros((2, 1, 1), np.int16) - np.array([1, 0]).reshape(2, 1, 1)
    one = Predictions(sources, np.ones((2, 1, 1)))
    two = Predictions(sources, np.stack([np.ones((2, 1, 1)), np.zeros((2, 1, 1))]))
    assert one == Predictions(sources, np.ones((1, 2, 1, 1)))
    assert one != two
    assert [two.at(1, 0, lane) for lane in range(2)] == [((0, 1.0),), ((0, 0.0),)]
    for shape in ((2, 2, 1, 2), (9, 2, 1, 1), (0, 2, 1, 1)):
        with pytest.raises(ValueError, match=r"predictions: .* wanted"):
            Predictions(sources, np.ones(shape))


def test_branches_whose_lanes_differ_are_told_apart() -> None:
    """As merging wants them: one may stand for others where all of its lanes are the same."""
    sources = np.array([[[-1], [-1]], [[0], [0]]], np.int16)
    coefficients = np.ones((2, 2, 2, 1))
    assert Predictions(sources, coefficients).column(0) == Predictions(
        sources, coefficients
    ).column(1)
    coefficients[1, 1, 1] = 2.0
    predictions = Predictions(sources, coefficients)
    assert predictions.column(0) != predictions.column(1)
    assert predictions.of_branches([1, 1]).at(1, 0, 1) == ((0, 2.0),)


@pytest.mark.parametrize(
    ("cell", "terms", "message"),
    [
        ((3, 0), [(3, 1.0)], "reads evaluation 3"),
        ((3, 0), [(5, 1.0)], "reads evaluation 5"),
        ((3, 0), [(1, float("nan"))], "wanted a finite number"),
        ((3, 0), [(1, float("inf"))], "wanted a finite number"),
        ((3, 0), [(-2, 1.0)], "reads evaluation -2"),
    ],
)
def test_terms_that_cannot_be_are_refused(cell, terms, message) -> None:
    with pytest.raises(ValueError, match=message):
        Predictions.from_terms(STEPS, BRANCHES, {cell: terms})


def test_more_terms_than_any_method_has_are_refused() -> None:
    with pytest.raises(ValueError, match="100 terms"):
        Predictions.from_terms(200, 1, {(150, 0): [(q, 1.0) for q in range(100)]})


def test_a_computed_branch_is_not_predicted() -> None:
    predictions = Predictions.from_terms(2, 1, {(1, 0): [(0, 1.0)]})
    with pytest.raises(ValueError, match="evaluation 1 computes a and predicts it"):
        CacheSchedule(np.ones((2, 1), bool), ("a",), predictions=predictions)


def test_predictions_of_another_run_are_refused() -> None:
    predictions = Predictions.from_terms(3, 1, {(1, 0): [(0, 1.0)]})
    with pytest.raises(ValueError, match="the schedule has"):
        CacheSchedule(np.array([[True], [False]]), ("a",), predictions=predictions)


@pytest.mark.parametrize("name", ["scale", "shift"])
def test_a_tensor_belongs_to_a_predicted_cell_and_is_finite(name: str) -> None:
    terms = {(1, 0): [(0, 1.0)]}
    for cell, array in (
        ((2, 0), np.ones(4)),
        ((1, 0), np.full(4, np.nan)),
        ((1, 0), np.ones((2, 2, 2))),
    ):
        with pytest.raises(ValueError, match=f"predictions: {name}"):
            Predictions.from_terms(3, 1, terms, **{name: {cell: array.astype(np.float32)}})


def test_a_schedule_with_tensors_is_not_written_as_text(tmp_path) -> None:
    predictions = Predictions.from_terms(
        2, 1, {(1, 0): [(0, 1.0)]}, scale={(1, 0): np.ones(4, np.float32)}
    )
    schedule = CacheSchedule(np.array([[True], [False]]), ("a",), predictions=predictions)
    with pytest.raises(ValueError, match="corrector's own file"):
        schedule.save(tmp_path / "schedule.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "predictions",
    [
        {}, "x", [[1, 0]], [[1, 0, []]], [[1, 0, [[1, 2.0]]]], [[9, 0, [[0, 1.0]]]],
        [[1, 0, [[0, "1"]]]], [[1, 0, [[0, 1e400]]]], [[1, 0, [[0, True]]]], [[True, 0, [[0, 1]]]],
        [[1, 0, [[0, 1.0]]], [1, 0, [[0, 1.0]]]], [[1, 0, [[0, 10**400]]]],
        [[1, 0, [[0, 1.0]] * 65]], [[1, 0, [[0, 1.0, 2.0], [0, 1.0]]]], [[1, 0, [[0]]]],
        [[1, 0, [[0, *[1.0] * 9]]]], [[1, 0, [[0, 1.0, "2"]]]],
    ],
)  # fmt: skip
def test_damaged_predictions_in_a_file_are_refused(tmp_path, predictions) -> None:
    path = tmp_path / "schedule.json"
    CacheSchedule(np.array([[True], [False]]), ("a",)).save(path)
    entries = json.loads(path.read_text()) | {"predictions": predictions}
    path.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"schedule\.json"):
        CacheSchedule.load(path)


def test_an_edited_coefficient_does_not_match_the_digest(tmp_path) -> None:
    path = tmp_path / "schedule.json"
    predictions = Predictions.from_terms(2, 1, {(1, 0): [(0, 1.25)]})
    CacheSchedule(np.array([[True], [False]]), ("a",), predictions=predictions).save(path)
    path.write_text(path.read_text().replace("1.25", "1.75"))
    with pytest.raises(ValueError, match="digest"):
        CacheSchedule.load(path)
