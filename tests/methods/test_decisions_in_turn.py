"""Several decisions in one forward against cache-dit's own: lists of blocks, and DBPrune."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from block_models import TwoStreams, built
from cache_dit_runs import Case, Ran, ours, theirs
from published_outputs import relative
from small_diffusers import SMALL

import l2c_rt as rt
from l2c_rt.methods import DBCache, DBPrune
from l2c_rt.methods.block_lists import PUBLISHED, lists_for
from l2c_rt.runtime.last_run import Act

DOUBLE, SINGLE = "transformer_blocks", "single_transformer_blocks"
ONE = {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.3, "max_warmup_steps": 2}
BLOCKS = {"Fn_compute_blocks": 1, "residual_diff_threshold": 0.15, "max_warmup_steps": 1}
CASES: dict[str, tuple[Case, str]] = {
    # case, and its decisions in hexadecimal, 1 where what the decision is about is computed
    "other options for one list": (
        Case("flux", ONE, lists=True, modifiers=(
            {"residual_diff_threshold": 0.15},
            {"Fn_compute_blocks": 2, "max_continuous_cached_steps": 3},
        )), "f0921210909030",
    ),
    "each list predicted": (
        Case("flux", {**ONE, "max_continuous_cached_steps": 3}, {"taylorseer_order": 2},
             lists=True, modifiers=({}, {"max_continuous_cached_steps": 2})),
        "f0612430612430",
    ),
    "each list along what was used, and refreshed": (
        Case("flux", {**ONE, "max_continuous_cached_steps": 4, "force_refresh_step_hint": 13},
             {"calibrator_type": "foca"}, lists=True),
        "f00c033c0300c0",
    ),
    "blocks pruned under limits": (
        Case("flux", {**BLOCKS, "max_cached_steps": 9, "max_continuous_cached_steps": 2,
                      "non_prune_block_ids": [3, 5], "Bn_compute_blocks": 1}, method="DBPrune"),
        "ff0000ff0000ff0000ff0000ff7fffffffffffffffffffffffffffff",
    ),
    "blocks predicted, by fewer channels": (
        Case("flux", {**BLOCKS, "force_reduce_calibrator_vram": True}, {"taylorseer_order": 2},
             method="DBPrune"),
        "ffe00000000000003ff8000000000001bfc800000002032003900c40000080c800800c9061000",
    ),
    "blocks along what was used, and refreshed": (
        Case("flux", {**BLOCKS, "force_refresh_step_hint": 9,
                      "force_refresh_step_policy": "repeat"},
             {"calibrator_type": "foca"}, method="DBPrune"),
        "ffe00000000001ffc0003f781ffc00000000000007ff000003ff80000000000000e802fc007ff",
    ),
    "blocks of two lists pruned": (
        Case("flux", BLOCKS, method="DBPrune", lists=True, modifiers=(
            {"residual_diff_threshold": 0.05}, {"non_prune_block_ids": [2]})),
        "ff8038000e00ff8000e0003fe00e00038000ff8038000e0003fe00007000000",
    ),
    "a threshold of what was seen, of two calls": (
        Case("wan", {**BLOCKS, "residual_diff_threshold": 0.03,
                     "enable_dynamic_prune_threshold": True}, method="DBPrune"),
        "ffe1fffe1fffe1ffff9cffff8fffffffffffffffffffffffff",
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@cache
def of_ours(name: str) -> Ran:
    return ours(CASES[name][0])


def as_hex(computed: list[bool]) -> str:
    bits = "".join(str(int(c)) for c in computed)
    return f"{int(bits, 2):0{len(bits) // 4}x}"


@pytest.mark.parametrize("name", CASES)
def test_what_cache_dit_decided_is_decided(name: str) -> None:
    assert as_hex(of_ours(name).computed) == CASES[name][1]


@pytest.mark.parametrize("name", CASES)
def test_decisions_and_outputs_are_those_of_the_installed_cache_dit(name: str) -> None:
    pytest.importorskip("cache_dit")
    published = theirs(CASES[name][0])
    assert of_ours(name).computed == published.computed
    pairs = zip(of_ours(name).outputs, published.outputs, strict=True)
    assert max(relative(a, b) for a, b in pairs) < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("blocks pruned under limits", {"non_prune_block_ids": [3]}),
        ("blocks predicted, by fewer channels", {"force_reduce_calibrator_vram": False}),
        ("a threshold of what was seen, of two calls", {"enable_dynamic_prune_threshold": False}),
        ("a threshold of what was seen, of two calls", {"max_dynamic_prune_threshold": 0.035}),
        ("a threshold of what was seen, of two calls",
         {"dynamic_prune_threshold_relax_ratio": 1.0}),
    ],
)  # fmt: skip
def test_each_option_decides(name: str, options: dict[str, Any]) -> None:
    case = CASES[name][0]
    assert ours(replace(case, options={**case.options, **options})).computed != (
        of_ours(name).computed
    )


def test_lists_are_those_that_cache_dit_registers() -> None:
    """Of a class that it does not know, or takes as one, all blocks are one."""
    blocks = (f"{DOUBLE}.0", f"{SINGLE}.0")
    assert lists_for("ChromaTransformer2DModel", blocks, apart=False) == ((DOUBLE,), (SINGLE,))
    assert lists_for("FluxTransformer2DModel", blocks, apart=False) == ((DOUBLE, SINGLE),)
    assert lists_for("FluxTransformer2DModel", blocks, apart=True) == ((DOUBLE,), (SINGLE,))


def test_the_registered_lists_are_those_of_the_installed_cache_dit() -> None:
    adapters = pytest.importorskip("cache_dit.caching.block_adapters.adapters")
    text = Path(adapters.__file__).read_text(encoding="utf-8")
    for kind in PUBLISHED:
        assert kind in text
        for (name,) in PUBLISHED[kind]:
            assert f"pipe.transformer.{name}" in text


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DBCache(1, blocks=("blocks",)), "the model has no list 'blocks', but transformer_blocks"),
        (DBCache(1, params_modifiers={"blocks": {}}), r"params_modifiers has 'blocks', wanted"),
        (DBCache(5, blocks=(DOUBLE,)), "computes 5 blocks .* has 4"),
        (DBPrune(2, 2), "computes 4 blocks .* has 4"),
        (DBCache(1, params_modifiers={DOUBLE: {"Bn_compute_blocks": 4}}), "computes 5 blocks"),
    ],
)  # fmt: skip
def test_lists_that_do_not_fit_a_model_are_refused(method: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rt.compile(built(TwoStreams, 4), method, steps=8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DBCache(blocks=()), r"blocks is \(\), wanted names of lists"),
        (lambda: DBCache(blocks=("a", ("b", "a"))), "each once"),
        (lambda: DBCache(params_modifiers={"a": {"Fn": 1}}), r"params_modifiers\['a'\] has 'Fn'"),
        (lambda: DBCache(params_modifiers={"a": {"blocks": ()}}), "has 'blocks', wanted fields"),
        (lambda: DBCache(params_modifiers={"a": {"Fn_compute_blocks": 0}}), "Fn_compute_blocks is"),
        (lambda: DBPrune(cfg_diff_compute_separate=False), "cache-dit's own stops there"),
        (lambda: DBPrune(non_prune_block_ids=[-1]), "non_prune_block_ids is -1"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_blocks_of_other_lists_are_computed_and_the_record_has_every_decision() -> None:
    make, calls, times = SMALL["flux"]
    method = DBPrune(1, 0, 0.15, 1, blocks=(SINGLE,))
    fast = rt.compile(make(2, 4), method, steps=8, timesteps=times(8))
    list(calls(fast, 8))
    last = fast.last_run
    assert (last.acts[:, 0, :3] == Act.COMPUTED).all()
    assert (last.acts[:, 0, 3:] == Act.REUSED).any()
    assert last.metrics.shape == (8, 1, 3)
    reused = last.acts[1:, 0, 3:] == Act.REUSED
    assert (reused == (last.metrics[1:, 0] < 0.15)).all()
