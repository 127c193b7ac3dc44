"""The kernels that score and choose tokens, compiled for three generations of GPU."""

from __future__ import annotations

import pytest
import torch
from compiled_kernels import ARCHS, TENSOR_CORES, compiled, fits

from l2c_rt.doctor.kernel_calls import MODULES
from l2c_rt.doctor.kernel_operands import Sizes
from l2c_rt.kernels._launch import MAX_TOKENS


@ARCHS
@pytest.mark.parametrize("op", MODULES["attention_scores"])
def test_sums_of_the_attention_map_run_on_tensor_cores_from_vectors(op: str, arch: int) -> None:
    launch, code = compiled(op, arch=arch)
    fits(launch, code, arch)
    assert code.count(TENSOR_CORES[arch]) > 0
    assert code.widths(r"LDGSTS")[16] > 0


# A grid of 16 x 16, and as many tokens as the kernels take.
@ARCHS
@pytest.mark.parametrize("side", [16, 32, 64])
@pytest.mark.parametrize("op", MODULES["token_choice"])
def test_all_tokens_of_an_image_are_ranked_in_registers(op: str, side: int, arch: int) -> None:
    assert side**2 <= MAX_TOKENS
    sizes = Sizes(torch.bfloat16, grid=(side, side), width=1152, heads=16)
    fits(*compiled(op, sizes, arch), arch)
