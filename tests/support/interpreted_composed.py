"""Composed weights that are made anew where a weight has changed, in Triton's interpreter; run by
test_interpreter.py."""

from __future__ import annotations

import pytest
import torch
from float64_bound import WARNINGS
from torch import Tensor

from l2c_rt.kernels import composed_product as module
from l2c_rt.kernels import reference
from l2c_rt.kernels.composed_product import composed_product, weight_bits

pytestmark = WARNINGS
NARROW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def bits_of(weight: Tensor) -> int:
    bits = weight_bits(weight, torch.tensor([5, 0, 7]), 1)
    assert bits[::2].tolist() == [5, 7]
    return int(bits[1])


# Less than a block; no multiple of one; several rounds in each program.
@NARROW
@pytest.mark.parametrize(("shape", "most"), [((8, 16), 4), ((72, 144), 4), ((136, 272), 3)])
def test_bits_are_those_of_the_meaning_and_show_the_change_of_one_element(
    shape: tuple[int, int], most: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_PROGRAMS", most)
    torch.manual_seed(0)
    weight = torch.randn(shape).to(dtype)
    before = bits_of(weight)
    assert before == int(reference.weight_bits(weight, torch.zeros(1).long(), 0))
    assert before == bits_of(weight)
    for row, column in ((0, 0), (shape[0] - 1, shape[1] - 1), (3, 5)):
        changed = weight.clone()
        changed[row, column] *= 1.5
        assert bits_of(changed) != before
    assert bits_of(weight.flip(0).contiguous()) != before


@NARROW
@pytest.mark.parametrize("width", [40, 136])
@pytest.mark.parametrize("takes", [True, False])
def test_a_product_is_that_of_float64_rounded_once(
    takes: bool, width: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    first, second = (torch.randn(width, 2 * width) / width**0.5).to(dtype).chunk(2, 1)
    before = torch.randn(width, width) / width**0.5
    now, known = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 0])
    out = torch.full((width, width), float("nan"))
    room = torch.full((width, 2 * width), float("nan"), dtype=dtype)
    rounded = room[:, width:]
    taken = second if takes else None
    composed_product(first, before, taken, now, known, out, rounded)
    exact = first.double() @ before.double() + (second.double() if takes else 0.0)
    assert float((out - exact).abs().max()) < 2**-15 * float(exact.abs().max())
    # The interpreter truncates where it stores bf16.
    assert float((rounded - exact).abs().max()) < 2**-7 * float(exact.abs().max())
    assert room[:, :width].isnan().all()


def test_where_nothing_has_changed_nothing_is_written() -> None:
    weight, before = torch.ones(16, 16).bfloat16(), torch.ones(16, 16)
    now = torch.tensor([7, -8])
    out, rounded = torch.zeros(16, 16), torch.zeros(16, 16).bfloat16()
    composed_product(weight, before, None, now, now.clone(), out, rounded)
    assert not out.any()
    assert not rounded.any()
    composed_product(weight, before, None, now, now + torch.tensor([0, 1]), out, rounded)
    assert out.eq(16).all()
    assert rounded.eq(16).all()
