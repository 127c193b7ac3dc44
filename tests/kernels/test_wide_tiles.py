"""Tiles of 144 columns: two blocks of columns, 128 and 16, that share what is read of x."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from aot import read_back
from recording_driver import SHARED_LIMIT, recorded_launches

from l2c_rt.doctor.kernel_calls import arguments, kernel
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.kernels._launch import WIDE_TILES, MatrixTile

DIT_XL = Sizes(torch.bfloat16, grid=(16, 16), width=1152, heads=16, empty=True)
TILES = pytest.mark.parametrize("tile", WIDE_TILES, ids=str)


def compiled(op: str, tile: MatrixTile, arch: int = 90, **more: Any) -> Any:
    with recorded_launches(arch) as launches:
        kernel(op)(**arguments(op, DIT_XL) | more, tile=tile)
    (launch,) = launches
    return launch, read_back(launch.cubin)


@TILES
@pytest.mark.parametrize("op", ["linear", "split_linear"])
def test_two_products_of_tensor_cores_share_one_block_of_x(op: str, tile: MatrixTile) -> None:
    launch, code = compiled(op, tile)
    shapes = {o.split(".")[1] for o in code.opcodes if o.startswith("HGMMA")}
    assert shapes == {"64x128x16", "64x16x16"}
    assert code.spills == 0
    # Two blocks for each multiprocessor: 65536 registers, 227 KiB of shared memory.
    assert 2 * 32 * tile.warps * code.registers <= 65536
    assert 2 * (launch.shared + 1024) <= SHARED_LIMIT[90]
    assert launch.shared <= tile.stages * (tile.m + tile.n) * tile.k * 2 + 1024
    assert code.widths(r"LDGSTS")[16] > 0
    assert set(code.widths(r"STG")) == {16}


@pytest.mark.slow
@TILES
@pytest.mark.parametrize("arch", [80, 100])
@pytest.mark.parametrize("op", ["linear", "split_linear"])
def test_other_architectures_compile_them_without_spills(
    op: str, arch: int, tile: MatrixTile
) -> None:
    launch, code = compiled(op, tile, arch)
    assert code.spills == 0
    assert launch.shared <= SHARED_LIMIT[arch]


@TILES
def test_the_grid_covers_the_columns_once(tile: MatrixTile) -> None:
    launch, _ = compiled("split_linear", tile, splits=3)
    rows = DIT_XL.batch * DIT_XL.tokens
    assert launch.grid == (3 * -(-rows // tile.m) * 8, 1, 1)
