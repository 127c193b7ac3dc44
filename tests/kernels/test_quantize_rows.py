"""Rows in e4m3: machine code, refusals, and what the references mean.

That the kernel says what its reference says is shown in interpreted_quantized.py.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aot import read_back
from compiled_kernels import DIT_XL, waits_before_it_touches_memory
from recording_driver import Launch, recorded_launches

from l2c_rt.doctor.kernel_calls import MODULES, arguments, kernel
from l2c_rt.kernels import reference
from l2c_rt.kernels.quantize_rows import quantize_rows, quantize_rows_bytes


@pytest.mark.parametrize("gelu", [None, "tanh", "none"])
def test_rows_are_read_16_bytes_at_a_time_and_no_gelu_is_computed_twice(gelu: str | None) -> None:
    with recorded_launches(90) as launches:
        quantize_rows(torch.zeros(2, 7, 4608, dtype=torch.bfloat16), gelu)
    (launch,) = launches
    code = read_back(launch.cubin)
    assert launch.pdl
    assert waits_before_it_touches_memory(code)
    assert code.spills == 0
    # 72 elements for each of 64 threads, and a scale for the row.
    assert code.widths("LDG") == {16: 9}
    assert code.widths("STG") == {8: 9, 4: 1}
    assert code.count("MUFU.TANH") == (72 if gelu == "tanh" else 0)


def test_narrow_rows_take_a_warp_each() -> None:
    with recorded_launches(90) as launches:
        quantize_rows(torch.zeros(2, 7, 1152, dtype=torch.bfloat16))
    (launch,) = launches
    assert launch.warps == 1
    assert read_back(launch.cubin).spills == 0


@pytest.mark.parametrize("op", ["norm_modulate", "norm", "reuse_run", "residual_norm",
                                "gate_residual_norm_modulate", "reuse_run_norm"])  # fmt: skip
def test_row_kernels_write_a_branchs_input_in_a_byte_per_element(op: str) -> None:
    operands = arguments(op, DIT_XL)
    x = operands["x"]
    rows = torch.empty_like(x, dtype=torch.float8_e4m3fn), torch.empty(x.numel() // x.shape[-1])
    with recorded_launches(90) as launches:
        kernel(op)(**operands)
        kernel(op)(**operands, out=rows if op.startswith("norm") else (x, rows))
    wide, narrow = launches
    code, before = read_back(narrow.cubin), read_back(wide.cubin)
    assert code.spills == 0
    assert waits_before_it_touches_memory(code)
    # Half of a tensor less, and a scale for each row.
    assert code.widths("STG")[16] < before.widths("STG")[16]
    assert code.widths("STG")[4] == 1
    assert told_bytes(op, wide) - told_bytes(op, narrow) == x.numel() - 4 * len(rows[1])


def told_bytes(op: str, launch: Launch) -> int:
    """What a launch tells a profiler of its bytes."""
    module = next(name for name, ops in MODULES.items() if op in ops)
    describe = getattr(importlib.import_module(f"l2c_rt.kernels.{module}"), launch.kernel)
    told = describe.launch_metadata(
        launch.grid, SimpleNamespace(name=launch.kernel), launch.arguments
    )
    return int(told["bytes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gelu": "erf"}, "gelu is 'erf'"),
        ({"x": torch.zeros(2, 12)}, "width 12"),
        ({"x": torch.zeros(2, 16).double()}, "x is torch.float64"),
        ({"out": (torch.zeros(2, 16), torch.zeros(2))}, r"out\[0\] is torch.float32"),
        ({"out": (torch.zeros(2, 16).to(torch.float8_e4m3fn), torch.zeros(3))}, r"out\[1\] has"),
    ],
)
def test_what_the_kernel_does_not_take_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quantize_rows(**{"x": torch.zeros(2, 16)} | change)


def test_a_product_of_quantised_rows_is_near_the_exact_one() -> None:
    x, weight, bias = torch.randn(2, 3, 64), torch.randn(32, 64) / 8, torch.randn(32)
    # A channel and a token that are much larger than the others keep their own scales.
    x[0, 0] *= 1e3
    weight[5] *= 1e3
    rows, columns = reference.quantize_rows(x), reference.quantize_rows(weight)
    y = reference.scaled_linear(rows, columns, bias, out=torch.empty(2, 3, 32))
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    for channel in (slice(5), slice(6, None)):
        error = (y - exact)[1, :, channel].norm() / exact[1, :, channel].norm()
        assert 1e-3 < error < 0.06


def test_the_bytes_are_a_read_and_half_a_write() -> None:
    assert quantize_rows_bytes(10, 64, 2) == 10 * (64 * 3 + 4)
