"""Neighbouring long skips as one sum of products, against one long skip after the other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from launch_recorder import operators
from torch import Tensor, nn

from l2c_rt.backends.composed_linears import Weight, compose, own_half, products
from l2c_rt.backends.cuda.composed_weights import ComposedWeights
from l2c_rt.kernels._launch import MOST_NUMBERS
from l2c_rt.plan.delta_ops import LinearParts

WIDTH = 12
PARTS = {
    "all equal": LinearParts(("a", "b", "c"), ("s", "s", "s"), "s"),
    "all distinct": LinearParts(("a", "b", "c"), ("u", "v", "w"), None),
    "here is kept as the last": LinearParts(("a", "b", "c"), ("u", "v", "s"), "s"),
    "two of three": LinearParts(("a", "b", "c"), ("u", "v", "u"), None),
    "one": LinearParts(("a",), ("u",), None),
    "one, of here": LinearParts(("a",), ("s",), "s"),
}  # fmt: skip


@pytest.fixture
def linears() -> dict[str, nn.Linear]:
    torch.manual_seed(0)
    return {name: nn.Linear(2 * WIDTH, WIDTH).double() for name in "abc"}


def one_by_one(op: LinearParts, linears: dict[str, nn.Linear], deltas: dict[str, Tensor]) -> Tensor:
    delta = deltas["here"] if op.source is None else deltas[op.source]
    for node, skip in zip(op.nodes, op.skips, strict=True):
        delta = F.linear(torch.cat([delta, deltas[skip]], -1), linears[node].weight)
    return delta


@pytest.mark.parametrize("name", PARTS)
def test_the_sum_of_products_is_what_the_long_skips_do_one_by_one(
    name: str, linears: dict[str, nn.Linear]
) -> None:
    op = PARTS[name]
    deltas = {key: torch.randn(5, WIDTH).double() for key in ("here", "s", "u", "v", "w")}
    matrices = dict(compose(products(op), linears))
    got = sum(
        deltas[delta or "here"] @ matrices[weight].T
        for delta, weight in zip(op.deltas, products(op), strict=True)
    )
    assert torch.allclose(got, one_by_one(op, linears, deltas), rtol=0, atol=1e-13)


def test_there_is_one_product_for_each_distinct_delta() -> None:
    counts = {name: len(products(op)) for name, op in PARTS.items()}
    assert counts == {
        "all equal": 1, "all distinct": 4, "here is kept as the last": 3, "two of three": 3,
        "one": 2, "one, of here": 1,
    }  # fmt: skip


def test_equal_matrices_of_several_sums_are_one(linears: dict[str, nn.Linear]) -> None:
    first, second = PARTS["all distinct"], PARTS["here is kept as the last"]
    weights = [*products(first), *products(second)]
    # v is taken by the second of three in either, and then goes through the last.
    assert len(weights) == 7
    assert len(dict(compose(weights, linears))) == len(set(weights)) == 5


def test_a_delta_through_one_long_skip_is_the_models_own_weight(
    linears: dict[str, nn.Linear],
) -> None:
    here, skip = products(PARTS["one"])
    weight = linears["a"].weight
    for view, half in ((own_half(here, linears), 0), (own_half(skip, linears), WIDTH)):
        assert view is not None
        assert torch.equal(view, weight[:, half : half + WIDTH])
        assert view.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()
    for name in ("one, of here", "all equal"):
        (both,) = products(PARTS[name])
        assert own_half(both, linears) is None


def test_what_weights_have_in_common_is_multiplied_once(linears: dict[str, nn.Linear]) -> None:
    longer = Weight(True, ("a", "b", "c"), (False, False, False))
    shorter = Weight(True, ("a", "b"), (False, False))
    with operators() as (launched, _):
        list(compose([longer, shorter], linears))
    assert sum(entry.name == "aten.mm.default" for entry in launched) == 2


def test_float32_weights_are_multiplied_in_float64(linears: dict[str, nn.Linear]) -> None:
    narrow = {name: linear.float() for name, linear in linears.items()}
    weights = products(PARTS["all equal"])
    ((_, matrix),) = compose(weights, narrow)
    ((_, expected),) = compose(weights, {name: lin.double() for name, lin in narrow.items()})
    assert torch.equal(matrix, expected)


def test_more_weights_than_the_device_compares_are_composed_before_every_run() -> None:
    named = {f"skip-{i:02}": nn.Linear(16, 8, bias=False).bfloat16() for i in range(MOST_NUMBERS)}
    weight = Weight(True, tuple(named), (True,) * len(named))
    composed = ComposedWeights([(weight,)], named, kernels=None)
    for linear in list(named.values())[:2]:
        with torch.no_grad():
            linear.weight.mul_(2)
        composed.refresh()
        ((_, expected),) = compose([weight], named)
        assert torch.equal(composed.of((weight,)), expected.bfloat16())
