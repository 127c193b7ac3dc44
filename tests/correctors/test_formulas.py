"""The coefficients of the correctors, against the formulas on numbers."""

from __future__ import annotations

from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import random_schedule

from l2c_rt.correctors import EOC, Fitted, Goc, HiCache, Taylor, corrected
from l2c_rt.correctors.hermite import hermite
from l2c_rt.methods import ToCa
from l2c_rt.policies.static import EveryN
from l2c_rt.schedule.cache_schedule import CacheSchedule


def predicted(schedule: CacheSchedule, outputs: np.ndarray) -> np.ndarray:
    """The values [S, K] of a schedule for the outputs [S, K] that its branches would compute."""
    assert schedule.predictions is not None
    values = outputs.copy()
    for s, k in np.argwhere(~schedule.compute):
        terms = schedule.predictions.at(s, k)
        values[s, k] = sum(c * values[q, k] for q, c in terms) if terms else values[s - 1, k]
    return values


@given(seed=st.integers(0, 999), order=st.integers(1, 4))
def test_taylor_is_the_recursion_on_computed_outputs(seed: int, order: int) -> None:
    schedule = corrected(random_schedule(16, 2, seed), Taylor(order))
    outputs = np.random.default_rng(seed).normal(size=(16, 2))
    values = predicted(schedule, outputs)
    for k in range(2):
        factors: list[float] = []
        last = 0
        for s in range(16):
            if schedule.compute[s, k]:
                new = [outputs[s, k]]
                for old in factors[:order]:
                    new.append((new[-1] - old) / (s - last))
                factors, last = new, s
            expected = sum(f * (s - last) ** i / factorial(i) for i, f in enumerate(factors))
            assert values[s, k] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_taylor_continues_a_line_exactly_at_order_1_and_reuses_at_order_0() -> None:
    schedule = EveryN(4).schedule(13, ("a", "b"))
    line = np.linspace(1, 2, 13)[:, None] * np.ones((1, 2))
    straight = predicted(corrected(schedule, Taylor(1)), line)
    np.testing.assert_allclose(straight[4:], line[4:])
    flat = predicted(corrected(schedule, Taylor(0)), line)
    np.testing.assert_array_equal(flat[5:8], line[[4, 4, 4]])


def test_hermite_polynomials_are_the_physicists() -> None:
    x = 0.7
    expected = [1, 2 * x, 4 * x**2 - 2, 8 * x**3 - 12 * x, 16 * x**4 - 48 * x**2 + 12]
    assert [hermite(n, x) for n in range(5)] == pytest.approx(expected)


def test_hicache_of_order_1_is_half_a_taylor_step_at_its_sigma() -> None:
    """2 sigma^2 d D_1, which is d D_1 / 2 at sigma 0.5."""
    schedule = EveryN(3).schedule(10, ("a", "b"))
    line = np.arange(10.0)[:, None] * np.ones((1, 2))
    values = predicted(corrected(schedule, HiCache(1, 0.5)), line)
    np.testing.assert_allclose(values[[4, 5], 0], [3.5, 4.0])


def test_goc_feeds_on_what_was_used() -> None:
    compute = np.array([[1], [1], [1], [0], [0]], bool)
    schedule = corrected(CacheSchedule(compute, ("a",)), Goc(0.5, None))
    values = predicted(schedule, np.array([[1.0], [2.0], [4.0], [0.0], [0.0]]))
    assert values[:, 0].tolist() == [1, 2, 4, 5, 5.5]


def test_goc_corrects_the_published_evaluations_alone() -> None:
    schedule = corrected(EveryN(2).schedule(20, ("a", "b")), Goc())
    assert schedule.predictions is not None
    corrected_at = [s for s in range(20) if schedule.predictions.at(s, 0)]
    reused = [s for s in range(20) if not schedule.compute[s, 0]]
    assert corrected_at == [s for s in reused if s in (3, 5, 7, 9, 11, 13, 15, 19)]


def test_goc_with_pairs_leaves_a_block_with_one_reused_branch_alone() -> None:
    compute = np.ones((6, 4), bool)
    compute[5] = [False, False, False, True]
    schedule = corrected(CacheSchedule(compute), Goc(0.8, None, pairs=True))
    assert schedule.predictions is not None
    assert [bool(schedule.predictions.at(5, k)) for k in range(4)] == [True, True, False, False]
    with pytest.raises(ValueError, match="pairs=False"):
        corrected(CacheSchedule(compute, ("p.a", "q.b", "r.c", "s.d")), Goc(pairs=True))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Taylor(-1), lambda: Taylor(9), lambda: Taylor(1.5), lambda: Taylor(True),
        lambda: HiCache(2, 0.0), lambda: HiCache(2, 1.5), lambda: HiCache("2"),
        lambda: Goc(float("nan")), lambda: Goc("1"), lambda: Goc(evaluations=(-1,)),
        lambda: Goc(evaluations=5), lambda: Goc(pairs="x"), lambda: Fitted(None), lambda: EOC(None),
    ],
)  # fmt: skip
def test_fields_out_of_range_are_refused(make) -> None:
    with pytest.raises((ValueError, TypeError), match="wanted"):
        make()


def test_what_is_no_corrector_is_refused() -> None:
    schedule = EveryN(2).schedule(4, ("a", "b"))
    for wrong in (Taylor, "taylor", object()):
        with pytest.raises(TypeError, match="corrector"):
            corrected(schedule, wrong)
    tokens = ToCa().schedule(8, ("attn-0", "mlp-0", "attn-1", "mlp-1"))
    with pytest.raises(ValueError, match="some tokens computed"):
        corrected(tokens, Taylor(1))
    with pytest.raises(ValueError, match="predictions already"):
        corrected(corrected(schedule, Taylor(1)), Taylor(1))
