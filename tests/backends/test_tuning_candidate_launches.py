"""A configuration launches its kernel with its tile, warps and splits."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recording_driver import Launch, recorded_launches

from l2c_rt.backends.cuda.tuning.runs import run_attention, run_linear, run_split
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    LinearConfig,
)

TILE, OTHER_TILE = (64, 128, 64, 4, 4, 8), (128, 64, 64, 4, 2, 3)


def kernels() -> SimpleNamespace:
    pytest.importorskip("triton")
    names = ("linear", "split_linear", "attention")
    return SimpleNamespace(
        **{name: getattr(importlib.import_module(f"l2c_rt.kernels.{name}"), name) for name in names}
    )


def blocks(launch: Launch) -> tuple[Any, ...]:
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP")
    return tuple(launch.arguments[name] for name in names if name in launch.arguments)


@pytest.mark.parametrize("tile", [TILE, OTHER_TILE])
def test_a_triton_choice_launches_the_kernel_with_its_tile(tile: tuple[int, ...]) -> None:
    x, weight = torch.empty(2, 72, 80).bfloat16(), torch.empty(160, 80).bfloat16()
    bias, out = torch.empty(160).bfloat16(), torch.empty(2, 72, 160).bfloat16()
    with recorded_launches() as launches:
        run_linear(LinearConfig("triton", tile), kernels(), x, weight, bias, "tanh", out)
    (launch,) = launches
    m, n, k, warps, _, group = tile
    assert launch.kernel == "_linear_kernel"
    assert blocks(launch) == (m, n, k, group)
    assert launch.warps == warps
    assert launch.grid == (-(-144 // m) * -(-160 // n), 1, 1)
    assert launch.arguments["GELU"] == 1
    assert launch.arguments["out_ptr"] is out


@pytest.mark.parametrize("splits", [2, 3])
def test_a_split_choice_launches_the_kernel_with_its_tile_and_splits(splits: int) -> None:
    x, weight = torch.empty(2, 72, 192).bfloat16(), torch.empty(160, 192).bfloat16()
    parts = torch.empty(splits, 144, 160)
    with recorded_launches() as launches:
        run_split(LinearConfig("split", OTHER_TILE, splits), kernels(), x, weight, None, parts)
    (launch,) = launches
    assert launch.kernel == "_split_linear_kernel"
    assert blocks(launch) == (128, 64, 64, 3)
    assert launch.warps == 4
    assert launch.grid == (splits * 2 * 3, 1, 1)
    assert launch.arguments["SPLITS"] == splits
    assert launch.arguments["partial_sums_ptr"] is parts


@pytest.mark.parametrize("tile", [(64, 64, 4, 2, 255), (128, 64, 8, 2, 255)])
def test_a_triton_attention_launches_the_kernel_with_its_tile(tile: tuple[int, ...]) -> None:
    qkv, out = torch.empty(2, 130, 3 * 2 * 72).bfloat16(), torch.empty(2, 130, 144).bfloat16()
    with recorded_launches() as launches:
        run_attention(AttentionConfig("triton", tile), kernels(), qkv, 2, 0.25, out)
    (launch,) = launches
    assert launch.kernel == "_attention_kernel"
    assert blocks(launch) == tile[:2]
    assert launch.warps == tile[2]
    assert launch.grid == (2 * 2 * -(-130 // tile[0]), 1, 1)
    assert launch.arguments["scale"] == 0.25
