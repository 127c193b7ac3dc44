"""How kernels are cut for a shape where nothing was measured."""

from __future__ import annotations

import itertools

import pytest
from recording_driver import SHARED_LIMIT

from l2c_rt.kernels import _launch
from l2c_rt.kernels._launch import ATTENTION_TILES, LINEAR_TILES, WIDE_TILES, MatrixTile

ROWS = (1, 2, 64, 65, 512, 4096, 4097, 16384)


def test_tiles_fit_the_rows_they_are_chosen_for() -> None:
    for width in (8, 40, 72, 1152, 4096, 8192):
        block = _launch.row_block(width)
        assert block >= width
        assert block & (block - 1) == 0
        per_thread = block // (32 * _launch.row_tile(width).warps)
        assert 8 <= per_thread <= 32, width
    for head in range(8, 129, 8):
        parts = _launch.two_parts(head)
        assert sum(parts) >= head
        assert all(part in (0, 16, 32, 64, 128) for part in parts)
    assert _launch.two_parts(72) == (64, 16)
    assert {_launch.two_parts(tile.n) for tile in WIDE_TILES} == {(128, 16)}


@pytest.mark.parametrize("columns", [8, 1152, 3456, 4608])
def test_a_product_fills_the_gpu_or_has_the_smallest_tile(columns: int) -> None:
    tiles = [_launch.linear_tile(rows, columns, 2) for rows in ROWS]
    for rows, tile in zip(ROWS, tiles, strict=True):
        assert tile in LINEAR_TILES
        assert tile.count(rows, columns) >= 128 or tile == LINEAR_TILES[0]
    assert tiles[0] == LINEAR_TILES[0]


def test_more_rows_never_make_a_tile_smaller() -> None:
    area = [t.m * t.n for t in (_launch.linear_tile(rows, 4608, 2) for rows in ROWS)]
    queries = [_launch.attention_tile(heads, 256, 2).m for heads in ROWS]
    for chosen in (area, queries):
        assert chosen == sorted(chosen)
        assert chosen[0] < chosen[-1]


def test_as_many_tiles_are_counted_as_cover_a_result() -> None:
    for m, n, rows, columns in itertools.product((16, 64), (32, 64), (1, 63, 64, 65), (8, 72)):
        tile = MatrixTile(m, n, 16, 4, 2)
        covered = {(r // m, c // n) for r in range(rows) for c in range(columns)}
        assert tile.count(rows, columns) == len(covered)


def test_the_tiles_that_attention_gets_by_its_shape_are_candidates_too() -> None:
    assert _launch.attention_tile(32, 256, 2) in ATTENTION_TILES
    assert _launch.attention_tile(4096, 256, 2) in ATTENTION_TILES


@pytest.mark.parametrize("tile", LINEAR_TILES + WIDE_TILES)
def test_a_candidates_operands_fit_the_smallest_shared_memory(tile: MatrixTile) -> None:
    assert tile.stages * (tile.m + tile.n) * tile.k * 2 <= min(SHARED_LIMIT.values())
