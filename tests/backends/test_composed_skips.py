"""Composed long skips on a CPU: made once, shared, counted, given back."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from published_outputs import relative
from three_backends import assert_same
from torch import nn
from toys import drive, toy_uvit

from l2c_rt.api import Compiled, compile
from l2c_rt.backends.composed_linears import own_half, products
from l2c_rt.backends.cpu import backend as cpu_backend
from l2c_rt.backends.cpu import packed
from l2c_rt.backends.cpu.composed_skips import ComposedSkips
from l2c_rt.backends.tuning.chooser import Chooser
from l2c_rt.plan.delta_ops import LinearParts
from l2c_rt.schedule.cache_schedule import CacheSchedule

STEPS = 6
ROWS = ("##########", "..........", "##########", "#.........", "##########", "......#.#.")


def delta(**options: Any) -> Compiled:
    """Two evaluations whose long skips are one and the same product, and one of two long skips by
    themselves."""
    schedule = CacheSchedule(np.array([[cell == "#" for cell in row] for row in ROWS]))
    return compile(toy_uvit(depth=4), schedule, backend="fused", **({"delta_form": True} | options))


def test_equal_weights_are_one_copy_and_a_models_own_halves_are_none() -> None:
    fast = delta(tune=False)
    drive(fast, STEPS)
    plan = fast.run.version.plan
    ops = [op for step in plan.steps for op in step if isinstance(op, LinearParts)]
    weights = {weight for op in ops for weight in products(op)}
    linears = fast.bound_model.fusable.outer.skip_linears
    composed = [weight for weight in weights if own_half(weight, linears) is None]
    assert (len(ops), len(weights), len(composed)) == (4, 4, 2)
    assert fast.summary().copied_bytes == len(composed) * 32 * 32 * 4


@pytest.mark.skipif(bool(packed.why_not_here()), reason=packed.why_not_here())
@pytest.mark.parametrize("way", ["addmm", "packed"])
def test_composed_products_are_right_by_either_product(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(call: Any) -> float:
        call()
        kind = next(part.kind for part in call.args if hasattr(part, "kind"))
        return 0.5 if kind == way else 1.0

    plain = drive(delta(delta_form=False), STEPS)
    chooser = Chooser("this machine", None, measure)
    monkeypatch.setattr(cpu_backend, "product_chooser", lambda: chooser)
    fast = delta()
    for got, expected in zip(drive(fast, STEPS), plain, strict=True):
        assert relative(got, expected) < 1e-6
    # A weight of [32, 32] and, packed, one more copy of it; with those of all linears.
    assert (fast.summary().copied_bytes > 16 * 32 * 32 * 4) == (way == "packed")


def test_two_sessions_and_a_second_run_make_no_copies_of_their_own() -> None:
    fast = delta()
    expected = drive(fast, STEPS)
    before = fast.summary().copied_bytes
    with fast.session() as other:
        assert_same(drive(other, STEPS), expected)
    assert_same(drive(fast, STEPS), expected)
    assert fast.summary().copied_bytes == before


def test_sleep_gives_the_copies_back_and_the_next_run_makes_them_again() -> None:
    fast = delta()
    expected = drive(fast, STEPS)
    assert fast.summary().copied_bytes > 0
    fast.sleep()
    assert fast.summary().copied_bytes == 0
    fast.wake()
    assert_same(drive(fast, STEPS), expected)


def test_another_plan_has_its_weights_composed_too_and_all_other_copies_are_told() -> None:
    told: list[str] = []
    others = SimpleNamespace(
        nbytes=3, begin_run=lambda: told.append("run"), drop=lambda: told.append("drop")
    )
    linears = {name: nn.Linear(16, 8, bias=False).requires_grad_(False) for name in "ab"}
    skips = ComposedSkips(linears, others, Chooser("", None, None))
    x, kept = torch.randn(2, 1, 3, 8)
    expected = x
    for nodes in (("a",), ("a", "b")):
        op = LinearParts(nodes, ("save",) * len(nodes), None)
        skips.plan(SimpleNamespace(steps=[(op,)]))  # type: ignore[arg-type]
        expected = linears[nodes[-1]](torch.cat([expected, kept], -1))
        assert relative(sum(skips(op, x, [kept] * len(nodes))), expected) < 1e-6
    assert skips.nbytes == 3 + 2 * 8 * 8 * 4
    skips.begin_run()
    skips.drop()
    assert (told, skips.nbytes) == (["run", "drop"], 3)


def test_composing_draws_no_random_numbers() -> None:
    fast = delta()
    state = torch.get_rng_state()
    drive(fast, STEPS)
    assert torch.equal(torch.get_rng_state(), state)
