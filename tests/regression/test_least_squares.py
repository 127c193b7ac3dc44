"""The regressions of a fit: what they find, and when plain reuse stays."""

from __future__ import annotations

import numpy as np
import pytest

from l2c_rt.regression.least_squares import differences, fitted


def grams_of(before: np.ndarray, value: np.ndarray, folds: int) -> np.ndarray:
    """Shapes: before [m, n] newest first, value [n]."""
    grams = []
    for part in np.split(np.arange(len(value)), folds):
        u, v = before[:, part], value[part]
        columns = np.concatenate([differences(len(u)) @ u, (v - u[0])[None]])
        grams.append(columns @ columns.T)
    return np.stack(grams)


def test_differences_are_those_of_a_sequence():
    squares = np.array([16.0, 9.0, 4.0, 1.0])
    assert (differences(4) @ squares).tolist() == [16.0, 7.0, 2.0, 0.0]


@pytest.mark.parametrize("folds", [1, 3])
def test_a_linear_combination_is_found_again(folds):
    random = np.random.default_rng(0)
    before = random.normal(size=(3, 300))
    coefficients = np.array([1.7, -0.9, 0.2])
    found = fitted(grams_of(before, coefficients @ before, folds))
    np.testing.assert_allclose(found, coefficients, atol=1e-6 if folds > 1 else 1e-3)


def test_plain_reuse_stays_where_held_out_runs_do_as_well_with_it():
    random = np.random.default_rng(0)
    before = random.normal(size=(3, 80))
    signs = np.repeat([1.0, -1.0, 1.0, -1.0], 20)
    value = before[0] + signs * before[1]
    assert fitted(grams_of(before, value, 4)) is None
    assert fitted(np.zeros((4, 4, 4))) is None


def test_an_output_that_never_changed_is_no_trouble():
    before = np.ones((3, 40))
    assert fitted(grams_of(before, before[0], 4)) is None
    found = fitted(grams_of(before, 2.0 * before[0], 4))
    np.testing.assert_allclose(found.sum(), 2.0, rtol=1e-6)
