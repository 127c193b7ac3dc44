"""The kernels for composed weights, as compiled code and by what they refuse.

That they compute what float64 says is shown in interpreted_composed.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aot import read_back
from recording_driver import SHARED_LIMIT, recorded_launches

from l2c_rt.kernels.composed_product import (
    composed_product,
    composed_product_bytes,
    weight_bits,
    weight_bits_bytes,
)

WIDTH = 1152


def half(width: int = WIDTH, dtype: torch.dtype = torch.bfloat16) -> Any:
    return torch.zeros(width, 2 * width, dtype=dtype)[:, width:]


def square(width: int = WIDTH) -> Any:
    return torch.zeros(width, width)


def numbers(count: int = 14) -> Any:
    return torch.zeros(count, dtype=torch.int64)


@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_they_read_16_bytes_at_a_time_and_spill_nothing(arch: int) -> None:
    with recorded_launches(arch) as launches:
        weight_bits(torch.zeros(WIDTH, 2 * WIDTH, dtype=torch.bfloat16), numbers(2), 1)
        composed_product(half(), square(), half(), numbers(), numbers(), square(), half())
    bits, product = (read_back(launch.cubin) for launch in launches)
    assert bits.spills == product.spills == 0
    # The last block, of which a part is outside, is read one by one.
    assert set(bits.widths(r"LDG")) == {4, 16}
    # Parts of the dtype of the tensor cores, by which they are multiplied.
    assert product.count(r"HMMA|HGMMA|UTC\w*MMA") > 0
    # Of shared memory there are, on sm_100.
    assert not product.count("ATOMG|RED\\.")


def test_another_number_of_weights_and_other_sizes_do_not_compile_another_kernel() -> None:
    with recorded_launches() as launches:
        for count in (1, 14, 64):
            composed_product(half(), square(), None, numbers(count), numbers(count), square())
        for size in (16, 4096, 6 * 2**20):
            weight_bits(torch.zeros(size, dtype=torch.bfloat16), numbers(9), size % 7)
    assert len({launch.cubin for launch in launches}) == 2


def test_a_profiler_is_told_what_is_read() -> None:
    assert weight_bits_bytes(1000) == 2000
    assert composed_product_bytes(1000, 2) == 1000 * 1000 * 14


OPERANDS: dict[str, Any] = {
    "weight": half(16), "before": square(16), "taken": half(16), "now": numbers(),
    "known": numbers(), "out": square(16), "rounded": half(16),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": half(16).float()}, "weight is torch.float32"),
        ({"taken": half(24)}, r"taken is torch.bfloat16 \(24, 24\)"),
        ({"taken": half(16).contiguous()}, r"taken has strides \(16, 1\), wanted \(32, 1\)"),
        ({"rounded": half(16).t()}, r"rounded has strides \(1, 32\)"),
        ({"rounded": half(16, torch.float16)}, "rounded is torch.float16"),
        ({"before": square(16).double()}, "before"),
        ({"before": square(16).t()[:, :8]}, "before"),
        ({"known": numbers(3)}, "known has shape"),
        ({"now": numbers(65), "known": numbers(65)}, "65 numbers, wanted at most 64"),
        ({name: half(12) for name in ("weight", "taken", "rounded")}
         | {"before": square(12), "out": square(12)}, "multiple of 8"),
    ],
)  # fmt: skip
def test_what_the_product_cannot_read_is_refused(change: dict[str, Any], message: str) -> None:
    with recorded_launches() as launches, pytest.raises(ValueError, match=message):
        composed_product(**(OPERANDS | change))
    assert not launches


@pytest.mark.parametrize(
    ("weight", "bits", "message"),
    [
        (square(16), numbers(3), "weight"),
        (half(16), numbers(3), "weight has strides"),
        (torch.zeros(3, dtype=torch.bfloat16), numbers(3), "wanted an even number"),
        (torch.zeros(4, dtype=torch.bfloat16), numbers(2), "number 2 is outside of 2 bits"),
        (torch.zeros(4, dtype=torch.bfloat16), numbers(3).int(), "bits"),
    ],
)
def test_bits_that_cannot_be_read_are_refused(weight: Any, bits: Any, message: str) -> None:
    with recorded_launches() as launches, pytest.raises(ValueError, match=message):
        weight_bits(weight, bits, 2)
    assert not launches
