"""The extension's pass over rows against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from l2c_rt.backends.cpu.rows import Term, row_pass, vector


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [*range(1, 8), 10, 11])
def test_a_sum_of_any_number_of_outputs_is_added_and_kept(count: int, dtype: torch.dtype) -> None:
    x, gate = drawn(2, 5, 37, seed=0), drawn(2, 1, 37, seed=1)
    sources = tuple(drawn(2, 5, 37, seed=2 + i).to(dtype) for i in range(count))
    lanes = [[0.5 - i for i in range(count)], [0.25 * i - 1 for i in range(count)]]
    store = torch.empty(2, 5, 37, dtype=dtype)
    exact = torch.stack([
        sum(number * source[sample].double() for number, source in zip(row, sources, strict=True))
        for sample, row in enumerate(lanes)
    ])  # fmt: skip
    expected = x.double() + gate.double() * exact
    coefficients = tuple(map(tuple, lanes))
    row_pass(x, x, [Term(sources, vector(gate), coefficients, store)], None, (0, 1))
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(store.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=1e-4)
