"""The decisions of methods, without a model."""

from __future__ import annotations

from typing import Any

import pytest

from l2c_rt.methods import DBCache, EasyCache, FirstBlockCache, SpeCa, TeaCache
from l2c_rt.plan.decisions import NAN, At, Decided, Dynamic, ModelFacts

FACTS = ModelFacts(
    "Model", ("blocks.0", "blocks.1"), frozenset({"blocks.0", "blocks.1", "blocks.0.attn"})
)


def decisions(method: Any, metrics: list[float], in_full: frozenset[int] = frozenset()) -> str:
    """What a method does at each evaluation that shows these metrics: 1 for computed."""
    state, rows = method.begin(), ""
    for step, metric in enumerate(metrics):
        at = At(step, len(metrics))
        done = Decided(0) if step == 0 or step in in_full else method.forced(state, at)
        if done is None:
            done = Decided(method.choose(state, at, metric), metric)
        state = method.after(state, at, done)
        rows += str(int(done.row == 0))
    return rows


def test_first_block_cache_computes_above_its_threshold_and_reuses_at_it() -> None:
    assert decisions(FirstBlockCache(0.1), [NAN, 0.1, 0.11, 0.05]) == "1010"


def test_teacache_adds_up_until_its_threshold_is_reached_and_begins_anew() -> None:
    identity = TeaCache(0.5, (1.0, 0.0))
    assert decisions(identity, [NAN, 0.25, 0.25, 0.3, 0.1, 0.0]) == "101001"
    assert decisions(identity, [NAN, 0.25, 0.25, 0.3, 0.1, 0.0], frozenset({1})) == "110101"


def test_teacache_computes_the_first_five_and_not_the_last_with_retention_steps() -> None:
    wan = TeaCache(10.0, "wan2.1-t2v-1.3b", use_ret_steps=True)
    wan = wan.for_model(FACTS)
    assert decisions(wan, [NAN] + [0.01] * 7) == "11111000"


def test_the_threshold_of_speca_decays_with_the_evaluations_done() -> None:
    speca = SpeCa(base_threshold=0.5, decay_rate=0.25)
    thresholds = [speca.threshold(At(step, 4)) for step in range(4)]
    assert thresholds == pytest.approx([0.5 * 0.25 ** (n / 4) for n in (1, 2, 3, 4)])


SMALL, LARGE = [0.05] * 12, [0.5] * 12


@pytest.mark.parametrize(
    ("method", "metrics", "expected"),
    [
        (DBCache(1), SMALL, "111111110000"),
        (DBCache(1, max_warmup_steps=7, warmup_interval=3), SMALL, "100100100000"),
        (DBCache(1, max_warmup_steps=1, max_cached_steps=3), SMALL, "100011111111"),
        (DBCache(1, max_warmup_steps=1, max_continuous_cached_steps=2), SMALL, "100100100100"),
        (DBCache(1, max_warmup_steps=1, max_accumulated_residual_diff_threshold=0.19), SMALL,
         "100001111111"),
        (DBCache(1, residual_diff_threshold=0.0, max_warmup_steps=1), SMALL, "111111111111"),
        (DBCache(1, residual_diff_threshold=1.0, max_warmup_steps=1), [2.0] * 12, "100000000000"),
        (DBCache(1, residual_diff_threshold=0.05, max_warmup_steps=1), SMALL, "111111111111"),
        (DBCache(1, steps_computation_mask=(1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1)), LARGE,
         "111111111111"),
        (DBCache(1, steps_computation_mask=(1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1),
                 steps_computation_policy="static"), LARGE, "110100100001"),
        (DBCache(1, steps_computation_mask=(1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1)), SMALL,
         "110100100001"),
    ],
)  # fmt: skip
def test_dbcache_asks_its_guards_in_order(
    method: DBCache, metrics: list[float], expected: str
) -> None:
    assert decisions(method, metrics) == expected


def test_a_metric_that_dbcache_looked_at_adds_up_where_it_computes() -> None:
    method = DBCache(1, max_warmup_steps=1, max_accumulated_residual_diff_threshold=0.6)
    assert decisions(method, [NAN, 0.5, 0.05, 0.05, 0.05, 0.01]) == "110011"


def test_a_shared_metric_is_that_of_the_call_before() -> None:
    shared, own = DBCache(1, cfg_diff_compute_separate=False), DBCache(1)
    second = At(9, 20, call=1, calls=2, call_before=Decided(1, 0.07))
    assert shared.forced(shared.begin(), second) == Decided(1, 0.07)
    assert shared.forced(shared.begin(), second._replace(call_before=Decided(0))) is None
    assert shared.forced(shared.begin(), second._replace(call=0)) is None
    assert own.forced(own.begin(), second) is None


def test_easycache_adds_up_after_its_first_steps_and_later_calls_follow_the_first() -> None:
    method = EasyCache(0.2, ret_steps=2)
    assert decisions(method, [NAN, 0.1, 0.1, 0.09, 0.05, 0.1, 0.0]) == "1100101"
    assert method.forced(0.0, At(5, 7, Decided(1, 0.1))) == Decided(1)
    assert method.forced(0.0, At(5, 7, Decided(0, 0.1))) == Decided(0)


def test_a_metric_that_is_not_a_number_computes() -> None:
    assert decisions(FirstBlockCache(0.5), [NAN, NAN]) == "11"
    assert decisions(TeaCache(0.5, (1.0, 0.0)), [NAN, NAN, 0.1, 0.1]) == "1101"


def test_teacache_takes_the_coefficients_of_the_class_and_asks_where_there_are_several() -> None:
    flux = ModelFacts("FluxTransformer2DModel", FACTS.blocks, FACTS.modules)
    assert TeaCache(0.5).for_model(flux) == TeaCache(0.5, "flux").for_model(FACTS)
    wan = ModelFacts("WanTransformer3DModel", FACTS.blocks, FACTS.modules)
    for facts in (FACTS, wan):
        with pytest.raises(ValueError, match=r"coefficients: .* published for .*; give a name"):
            TeaCache(0.5).for_model(facts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FirstBlockCache(-0.1), "threshold is -0.1, wanted a number of at least 0"),
        (lambda: FirstBlockCache("high"), "threshold is 'high'"),
        (lambda: TeaCache(float("nan")), "threshold is nan"),
        (lambda: DBCache(0), "Fn_compute_blocks is 0, wanted an int of at least 1"),
        (lambda: DBCache(1, 1).rows(("a", "b")), "computes 2 blocks .* has 2"),
        (lambda: DBCache(steps_computation_mask=(1, 2)), "wanted zeros and ones"),
        (lambda: DBCache(steps_computation_policy="fixed"), "'dynamic' or 'static'"),
        (lambda: DBCache(1, steps_computation_mask=(1, 0)).schedule(3, ("a", "b")),
         "has 2 entries, the run has 3 evaluations"),
        (lambda: EasyCache(ret_steps=0), "ret_steps is 0"),
        (lambda: TeaCache(0.1, "flax"), "got 'flax', wanted numbers or one of flux"),
        (lambda: TeaCache(0.1, "flux", use_ret_steps=True), "got 'flux', wanted .*wan2.1"),
        (lambda: TeaCache(0.1, ()), "got none"),
        (lambda: Dynamic.of(TeaCache(0.1, "flux", indicator="norm"), FACTS), "no module 'norm'"),
        (lambda: FirstBlockCache().rows(("a",)), "computes 1 blocks .* has 1"),
    ],
)  # fmt: skip
def test_what_no_run_could_follow_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
