"""Launches that begin before the kernel before them has ended: which, and what each does first."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from aot import read_back
from compiled_kernels import waits_before_it_touches_memory
from recording_driver import Launch, recorded_launches

from l2c_rt.doctor.kernel_calls import MATRIX_OPS, OPS, TOKEN_OPS, arguments, kernel
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.kernels._launch import WIDE_TILES, RowTile
from l2c_rt.kernels._launcher import PDL_SWITCH

SIZES = Sizes(torch.bfloat16, grid=(16, 16), width=144, heads=2, empty=True)
PRODUCTS = ("linear", "split_linear", "skip_linear")


def launched(op: str, arch: int = 90, **more: Any) -> Launch:
    with recorded_launches(arch) as launches:
        kernel(op)(**arguments(op, SIZES) | more)
    (launch,) = launches
    return launch


@pytest.mark.parametrize("op", [op for op in OPS if op not in TOKEN_OPS])
def test_every_kernel_is_launched_early_and_waits_before_it_touches_memory(op: str) -> None:
    launch = launched(op)
    assert launch.pdl
    code = read_back(launch.cubin)
    assert waits_before_it_touches_memory(code)
    assert code.spills == 0


@pytest.mark.parametrize("op", ["linear", "split_linear"])
@pytest.mark.parametrize("tile", WIDE_TILES)
def test_wide_tiles_wait_too(op: str, tile: Any) -> None:
    assert waits_before_it_touches_memory(read_back(launched(op, tile=tile).cubin))


@pytest.mark.parametrize("op", PRODUCTS)
def test_a_product_asks_for_its_weight_before_it_waits(op: str) -> None:
    order = [o for o in read_back(launched(op).cubin).sequence if re.match(r"ACQBULK|CCTL", o)]
    # Hints for L2, which read nothing; the loads themselves come after.
    assert order[0].startswith("CCTL")
    assert order[-1] == "ACQBULK"


@pytest.mark.parametrize("op", ["gate_residual_norm_modulate", "reuse_run", "attention"])
def test_the_division_by_the_number_of_tokens_comes_before_the_wait(op: str) -> None:
    code = read_back(launched(op).cubin).sequence
    assert "MUFU.RCP" in code[: code.index("ACQBULK")]


@pytest.mark.parametrize("op", ["reuse_run", "final_update", *MATRIX_OPS])
def test_before_sm_90_no_kernel_is_launched_early(op: str) -> None:
    launch = launched(op, 80)
    assert not launch.pdl
    assert read_back(launch.cubin).count("ACQBULK|PREEXIT") == 0


@pytest.mark.parametrize("op", ["reuse_run", "linear", "attention"])
def test_the_environment_switches_it_off(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PDL_SWITCH, "0")
    launch = launched(op)
    assert not launch.pdl
    assert read_back(launch.cubin).count("ACQBULK|PREEXIT") == 0


def test_a_tile_may_say_otherwise() -> None:
    assert not launched("reuse_run", tile=RowTile(pdl=False)).pdl
    assert not launched("split_sum", tile=RowTile(pdl=False)).pdl
