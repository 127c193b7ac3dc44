"""The ways of computing a linear layer or an attention that are worth measuring."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from l2c_rt.backends.cuda.cublas_lt import Name
from l2c_rt.backends.cuda.tuning.pruning import MULTIPROCESSORS, Cut, promising
from l2c_rt.backends.tuning.problems import (
    HALF_DTYPES,
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)
from l2c_rt.kernels._launch import (
    ATTENTION_TILES,
    LINEAR_TILES,
    WIDE_TILES,
    MatrixTile,
    attention_tile,
    linear_tile,
)

SPLITS = (2, 3, 4)
MANY_ROWS = 8192


def default_linear(problem: LinearProblem, device: str = "cuda") -> LinearConfig:
    """What is used where nothing was measured: cuBLAS, which no tile of ours is known to beat,
    with tanh GELU in its epilogue where that saves two passes over the output."""
    # On a CPU the very same operator computes erf GELU, and it has no erf form on CUDA; its tanh
    # is an approximation, 5e-6 off on an H200, which only half precision hides.
    fused = problem.gelu == "tanh" and problem.bias and device == "cuda"
    fused = fused and problem.dtype in HALF_DTYPES
    return LinearConfig("addmm_activation" if fused else "addmm")


def default_attention(problem: AttentionProblem, device: str = "cuda") -> AttentionConfig:
    """What is used where nothing was measured: our own kernel where it applies, since it reads the
    packed projection and writes the layout of the next one, without a transposed copy."""
    if _kernel_attends(problem):
        # Two bytes per element: the only ones the kernel is chosen for.
        tile = attention_tile(problem.batch * problem.heads, problem.tokens, 2)
        return AttentionConfig("triton", dataclasses.astuple(tile))
    # Whole 16-byte vectors of a head, and no float64: what "efficient" takes.
    vector = 8 if problem.dtype in HALF_DTYPES else 4
    takes = problem.head % vector == 0 and problem.dtype != "float64" and device == "cuda"
    return AttentionConfig("efficient" if takes else "math")


def default_skip_linear(problem: LinearProblem) -> LinearConfig:
    """What is used where nothing was measured: our kernel, one launch that rounds once."""
    tile = linear_tile(problem.rows, problem.columns, 2 if problem.dtype in HALF_DTYPES else 4)
    return LinearConfig("triton", dataclasses.astuple(tile))


def linear_candidates(
    problem: LinearProblem, device: str = "cuda", algorithms: Sequence[Name] = ()
) -> tuple[LinearConfig, ...]:
    """All that is worth measuring, the default first; `algorithms` are cuBLASLt's for it."""
    if problem.sources == 2:
        return _skip_candidates(problem)
    configs = [default_linear(problem, device), LinearConfig("addmm")]
    configs += [LinearConfig("lt", name) for name in algorithms]
    # With many rows cuBLAS fills the GPU; our tiles are then worth a compilation each only for
    # the activation that it has no epilogue for.
    if _kernel_multiplies(problem) and (problem.rows <= MANY_ROWS or problem.gelu == "none"):
        cuts = [(tile, 1) for tile in LINEAR_TILES + WIDE_TILES] + _splits(problem)
        configs += [_config(*cut) for cut in promising(problem, cuts)]
    return tuple(dict.fromkeys(configs))


def _skip_candidates(problem: LinearProblem) -> tuple[LinearConfig, ...]:
    configs = [default_skip_linear(problem), LinearConfig("halves")]
    if _kernel_multiplies(problem) and problem.rows <= MANY_ROWS:
        cuts = promising(problem, [(tile, 1) for tile in LINEAR_TILES])
        configs += [_config(*cut) for cut in cuts]
    return tuple(dict.fromkeys(configs))


def attention_candidates(
    problem: AttentionProblem, device: str = "cuda"
) -> tuple[AttentionConfig, ...]:
    """All that is worth measuring, the default first."""
    configs = [default_attention(problem, device)]
    if problem.dtype in HALF_DTYPES and problem.head % 8 == 0 and problem.head <= 256:
        configs += [AttentionConfig(kind) for kind in ("cudnn", "flash")]
    if _kernel_attends(problem):
        configs += [
            AttentionConfig("triton", dataclasses.astuple(tile)) for tile in ATTENTION_TILES
        ]
    return tuple(dict.fromkeys(configs))


def _kernel_multiplies(problem: LinearProblem) -> bool:
    # In float32 the kernel multiplies without tensor cores, as the exact result needs.
    aligned = problem.columns % 8 == 0 and problem.inner % 8 == 0
    return problem.dtype in HALF_DTYPES and aligned


def _kernel_attends(problem: AttentionProblem) -> bool:
    return problem.dtype in HALF_DTYPES and problem.head % 8 == 0 and problem.head <= 128


def _config(tile: MatrixTile, splits: int) -> LinearConfig:
    kind = "triton" if splits == 1 else "split"
    return LinearConfig(kind, dataclasses.astuple(tile), splits)


def _splits(problem: LinearProblem) -> list[Cut]:
    """Cuts of the inner dimension, for tiles that leave multiprocessors idle: none that would make
    more than two blocks for each, and so none of a grid that fills them."""
    if not problem.splittable or problem.gelu is not None:
        return []
    cuts = []
    for tile in LINEAR_TILES + WIDE_TILES:
        blocks = tile.count(problem.rows, problem.columns)
        for splits in SPLITS:
            fits = splits <= -(-problem.inner // tile.k) and blocks * splits <= 2 * MULTIPROCESSORS
            if fits:
                cuts.append((tile, splits))
    return cuts
