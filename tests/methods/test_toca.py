"""ToCa and DuCa on small models: bitwise a naive program; what they cannot carry is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from token_oracle import NaiveTokens
from token_runs import by_block, chosen_tokens
from torch import Tensor
from toys import toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.methods import DuCa, ToCa
from l2c_rt.schedule.cache_schedule import default_branches
from l2c_rt.schedule.tokens import SCORES

STEPS = 20
TIMES = [float(t) for t in range(STEPS - 1, -1, -1)]
BRANCHES = default_branches(8)


def drive(model: Any, seed: int = 0, steps: int = STEPS) -> list[Tensor]:
    """The outputs of a loop over a batch of four."""
    x = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    outputs = []
    for t in range(steps - 1, -1, -1):
        out = model(x, torch.full((4,), t), torch.tensor([1, 5, 10, 10]))
        outputs.append(out)
        x = x - out[:, :4] / steps
    return outputs


NAIVE = [
    (ToCa(), {"aggressive": False, "ratio": 0.07, "bonus": 0.6}),
    (DuCa(fresh_ratio=0.3), {"ratio": 0.3}),
    (DuCa(fresh_threshold=5, fresh_ratio=0.6, soft_fresh_weight=1.0, bonus=0.0),
     {"threshold": 5, "ratio": 0.6, "soft": 1.0, "bonus": 0.0}),
    (DuCa(cache_type="kv-norm", fresh_ratio=0.3), {"score": "kv-norm", "ratio": 0.3}),
    (ToCa(fresh_threshold=4, ratio_scheduler="ToCa-ddpm250", fresh_ratio=0.2),
     {"aggressive": False, "threshold": 4, "ratio": 0.2, "bonus": 0.6, "schedule": "ToCa-ddpm250"}),
    *[
        (DuCa(ratio_scheduler=name, fresh_ratio=0.4), {"ratio": 0.4, "schedule": name})
        for name in ("constant", "linear", "linear-mode", "exp", "layerwise")
    ],
    (ToCa(cache_type="similarity", fresh_ratio=0.2),
     {"aggressive": False, "score": "similarity", "ratio": 0.2, "bonus": 0.6}),
    (DuCa(cache_type="norm", fresh_ratio=0.3), {"score": "norm", "ratio": 0.3}),
    (ToCa(fresh_ratio=0), {"aggressive": False, "ratio": 0.0, "bonus": 0.6}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options"), NAIVE)
@torch.no_grad()
def test_the_reference_is_bitwise_a_naive_program(
    method: ToCa | DuCa, options: dict[str, Any]
) -> None:
    model = toy_dit(4)
    naive = NaiveTokens(model, STEPS, **options)
    fast = rt.compile(model, method, steps=STEPS, timesteps=TIMES, backend="reference")
    with chosen_tokens(16) as masks:
        outputs = drive(fast)
    assert all(map(torch.equal, outputs, drive(naive)))
    chosen = by_block(fast.plan, masks)
    assert chosen.keys() == naive.chosen.keys()
    assert all(torch.equal(chosen[place], naive.chosen[place]) for place in chosen)


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("constant", lambda block, left, n: 0.2),
        ("linear", lambda block, left, n: 0.2 * (1 + 0.9 - 2 * 0.9 * left / 20)),
        ("linear-mode", lambda block, left, n: 0.2 * (
            1 + 0.9 - 2 * 0.9 * left / 20 + 0.1 * (left % n / n - 0.5)
        )),
        ("exp", lambda block, left, n: 0.2 * 0.9 ** (left / 20)),
        ("layerwise", lambda block, left, n: 0.2 * (1 + 0.9 - 2 * 0.9 * block / 3)),
        ("linear-layerwise", lambda block, left, n: 0.2 * 2.5 * (
            (1 + 0.8 - 1.6 * block / 3) * (1 + 0.4 - 0.8 * left / 20)
        )),
    ],
)  # fmt: skip
def test_shares_of_tokens_follow_the_published_schedules(name: str, share: Any) -> None:
    """By the evaluations that are left, counted down."""
    tokens = ToCa(4, 0.2, name).schedule(STEPS, BRANCHES[:8]).tokens
    assert tokens is not None
    partial = tokens.shares[:, 1::2] >= 0
    assert partial.sum() > 20
    for n, block in np.argwhere(partial).tolist():
        expected = min(max(share(block, STEPS - 1 - n, 4), 0), 1)
        assert tokens.shares[n, 2 * block + 1] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
@pytest.mark.parametrize("score", SCORES)
@torch.no_grad()
def test_the_fused_backend_is_the_reference_up_to_rounding(make: Any, score: str) -> None:
    method = DuCa(fresh_ratio=0.3, cache_type=score)
    reference, fused = (
        rt.compile(make(), method, steps=STEPS, timesteps=TIMES, backend=backend)
        for backend in ("reference", "fused")
    )
    for ours, theirs in zip(drive(fused), drive(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_second_run_is_bitwise_the_first_over_poisoned_memory_and_beside_another() -> None:
    fast = rt.compile(toy_dit(4), DuCa(fresh_ratio=0.3), steps=STEPS, timesteps=TIMES)
    first = drive(fast)
    fast.poison()
    drive(fast, seed=1, steps=STEPS)
    fast.poison()
    with fast.session() as other:
        assert all(map(torch.equal, drive(fast), first))
        assert all(map(torch.equal, drive(other), first))


@torch.no_grad()
def test_each_image_has_its_own_tokens() -> None:
    fast = rt.compile(toy_dit(4), ToCa(fresh_ratio=0.3), steps=STEPS, timesteps=TIMES)
    with chosen_tokens(16) as masks:
        drive(fast)
    assert any((mask[0] != mask[1]).any() for mask in masks)


@torch.no_grad()
def test_tokens_drawn_by_lot_are_the_same_for_both_halves_and_follow_the_seed() -> None:
    runs = []
    for seed in (0, 0, 1):
        method = ToCa(cache_type="random", fresh_ratio=0.3, soft_fresh_weight=0, seed=seed)
        fast = rt.compile(toy_dit(4), method, steps=STEPS, timesteps=TIMES)
        with chosen_tokens(16) as masks:
            drive(fast)
        runs.append(torch.stack([mask.float() for mask in masks]))
    assert torch.equal(runs[0][:, :2], runs[0][:, 2:])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_published_intervals_are_those_observed() -> None:
    kinds = DuCa().schedule(50, default_branches(56))
    full = np.flatnonzero(kinds.compute.all(axis=1)).tolist()
    assert full == [0, 5, 9, 13, 19, 22, 25, 28, 31, *range(33, 50, 2)]
    assert np.flatnonzero(kinds.compute.any(axis=1) & ~kinds.compute.all(axis=1)).tolist() == [
        4,
        17,
    ]
    assert kinds.tokens is not None
    assert np.flatnonzero(kinds.tokens.restored.any(axis=1)).tolist() == [
        2, 7, 11, 15, 17, 20, 23, 26, 29
    ]  # fmt: skip


def test_a_cost_counts_the_tokens_and_what_no_block_runs() -> None:
    model = toy_dit(4)
    some = rt.compile(model, DuCa(fresh_ratio=0.3), steps=STEPS, timesteps=TIMES)
    none = rt.compile(model, DuCa(fresh_ratio=0.3, cache_type="random"), steps=STEPS)
    assert some.cost.macs == none.cost.macs < some.cost.full_macs
    no_tokens = rt.compile(model, some.schedule.__class__(some.schedule.compute), steps=STEPS)
    assert no_tokens.cost.macs < some.cost.macs
    restored = np.flatnonzero(some.schedule.tokens.restored[:, 0])
    assert all(some.cost.cached[n].kernels == 1 for n in restored)


@pytest.mark.parametrize("kind", [ToCa, DuCa])
@pytest.mark.parametrize(
    "options",
    [
        {"fresh_threshold": 0}, {"fresh_threshold": 2.5}, {"fresh_ratio": -0.1},
        {"fresh_ratio": 1.5}, {"fresh_ratio": float("nan")}, {"bonus": -1}, {"seed": -1},
        {"soft_fresh_weight": -1}, {"ratio_scheduler": "cosine"}, {"cache_type": "straight"},
        {"cache_type": []},
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: {next(iter(options))} is .* wanted"):
        kind(**options)


def test_other_branches_than_those_of_dit_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted attn-0, mlp-0"):
        DuCa().schedule(10, ("block-0", "block-1"))


def test_models_without_tokens_to_choose_are_refused_at_compile() -> None:
    with pytest.raises(ValueError, match="cells of 2 x 2 tokens, and DiT has 9 tokens"):
        rt.compile(toy_dit(2, input_size=6), DuCa(), steps=10)
    rt.compile(toy_dit(2, input_size=6), DuCa(bonus=0), steps=10)
    model = toy_dit(2)
    model.blocks[0].attn.qkv.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="queries, keys and values, but .* hooks"):
        rt.compile(model, DuCa(), steps=10)
    for score in ("random", "norm", "similarity"):
        rt.compile(model, DuCa(cache_type=score), steps=10)
    sites = ["blocks.*.attn", "blocks.*.mlp"]
    with pytest.raises(ValueError, match="wanted attn-0|cannot compute some tokens"):
        rt.compile(toy_dit(2), DuCa(), steps=10, sites=sites)


def test_a_schedule_with_tokens_is_not_saved_without_them(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="make the schedule again"):
        DuCa().schedule(20, BRANCHES).save(tmp_path / "schedule.json")
