"""The decisions of methods, without a model."""

from __future__ import annotations

from typing import Any

import pytest

from l2c_rt.methods import FirstBlockCache, TeaCache
from l2c_rt.plan.decisions import NAN, At, Decided, Dynamic, ModelFacts

FACTS = ModelFacts(
    "Model", ("blocks.0", "blocks.1"), frozenset({"blocks.0", "blocks.1", "blocks.0.attn"})
)


def decisions(method: Any, metrics: list[float], in_full: frozenset[int] = frozenset()) -> str:
    """What a method does at each evaluation that shows these metrics: 1 for computed."""
    state, rows = method.begin(), ""
    for step, metric in enumerate(metrics):
        at = At(step, len(metrics))
        row = 0 if step == 0 or step in in_full else method.forced(state, at)
        read = NAN if row is not None else metric
        row = method.choose(state, at, metric) if row is None else row
        state = method.after(state, at, Decided(row, read))
        rows += str(int(row == 0))
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
        (lambda: TeaCache(0.1, "flax"), "got 'flax', wanted numbers or one of flux"),
        (lambda: TeaCache(0.1, "flux", use_ret_steps=True), "got 'flux', wanted .*wan2.1"),
        (lambda: TeaCache(0.1, ()), "got none"),
        (lambda: Dynamic.of(TeaCache(0.1, "flux", indicator="norm"), FACTS), "no module 'norm'"),
        (lambda: FirstBlockCache().rows(("a",)), "computes 1 blocks .* has 1"),
    ],
)
def test_what_no_run_could_follow_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
