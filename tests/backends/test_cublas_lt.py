"""Products by cuBLASLt's algorithms: what the native half is asked, what is offered, kept, run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from taped_graphs import TapedKernels, compile_taped
from three_backends import assert_near
from toys import count_branches, drive, random_schedule, toy_dit, toy_uvit
from tuning_bench import FC1, PROJ, Bench

from l2c_rt.backends.cuda.cublas_lt import WORKSPACE_BYTES, CublasLt, LtAlgorithm
from l2c_rt.backends.cuda.tuning.candidates import linear_candidates
from l2c_rt.backends.cuda.tuning.runs import run_linear
from l2c_rt.backends.cuda.tuning.tuner import Tuner
from l2c_rt.backends.tuning.problems import LinearConfig, LinearProblem
from l2c_rt.kernels import reference

STEPS = 8
NAMES = [[66, 20, 1, 0, 0, 0, 36, 0, 2, 77], [66, 20, 3, 2, 0, 0, 36, 0, 2, 78]]
FIRST, SECOND = ((68, *name) for name in NAMES)


class Native:
    """A native product that notes what it is asked."""

    def __init__(self, log: list[dict[str, Any]], **asked: Any) -> None:
        self.asked, self.algorithms = asked, NAMES
        self.runs: list[tuple[Any, ...]] = []
        log.append(asked)

    def run(self, *arguments: Any) -> None:
        self.runs.append(arguments)


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def library(asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> CublasLt:
    stream = type("Stream", (), {"cuda_stream": 7})
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    make: Any = lambda **given: Native(asked, **given)  # noqa: E731
    return CublasLt(torch.device("cuda", 1), product=make, version=lambda: 130001)


def small(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """x, weight, bias, out."""
    sizes: list[tuple[int, ...]] = [(2, 3, 8), (16, 8), (16,), (2, 3, 16)]
    return tuple(torch.ones(size, dtype=dtype) for size in sizes)


def test_a_problem_is_asked_for_once_with_bias_gelu_and_a_fixed_workspace(
    library: CublasLt, asked: list[dict[str, Any]]
) -> None:
    assert library.algorithms(FC1) == library.algorithms(FC1) == (FIRST, SECOND)
    assert asked == [
        {"device": 1, "shape": (512, 4608, 1152), "types": (14, 68), "bias": True, "gelu": True,
         "workspace": WORKSPACE_BYTES, "most": 16, "cut_first": 0}
    ]  # fmt: skip
    # Erf GELU is no epilogue of the library's, and its tanh too rough for float32.
    library.algorithms(replace(FC1, gelu="none", bias=False, dtype="float16"))
    assert asked[1] | {"types": (2, 68), "bias": False, "gelu": False} == asked[1]
    library.algorithms(replace(FC1, dtype="float32"))
    assert asked[2] | {"types": (0, 68), "gelu": False} == asked[2]


def test_cuts_are_asked_for_where_the_output_leaves_a_gpu_idle(
    library: CublasLt, asked: list[dict[str, Any]]
) -> None:
    for rows in (512, 4096):
        library.algorithms(replace(PROJ, rows=rows))
    assert [entry["cut_first"] for entry in asked] == [6, 0]


def test_float32_is_rounded_to_tf32_only_where_torch_may(
    library: CublasLt, asked: list[dict[str, Any]]
) -> None:
    exact, half = replace(PROJ, dtype="float32"), PROJ
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            library.algorithms(exact)
            library.algorithms(half)
    finally:
        torch.set_float32_matmul_precision(before)
    assert [entry["types"] for entry in asked] == [(0, 68), (14, 68), (0, 77)]
    assert library.algorithms(replace(PROJ, dtype="float64")) == ()


@pytest.mark.parametrize("bias", [True, False])
def test_a_call_passes_addresses_on_to_the_algorithm_of_its_name(
    bias: bool, library: CublasLt
) -> None:
    x, weight, b, out = small(torch.bfloat16)
    room = torch.empty(8, dtype=torch.uint8)
    given = b if bias else None
    # The very product that was asked about: a capture must not ask again.
    library.algorithms(LinearProblem(6, 16, 8, bias, "tanh", "bfloat16", True))
    library.beside(reference.linear)(
        x, weight, given, gelu="tanh", out=out, tile=LtAlgorithm(SECOND, room)
    )
    ((native, _),) = library._products.values()
    where = b.data_ptr() if bias else 0
    assert native.runs == [
        (1, x.data_ptr(), weight.data_ptr(), where, out.data_ptr(), room.data_ptr(), 7)
    ]


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_a_gelu_that_is_no_epilogue_follows_the_product(gelu: str, library: CublasLt) -> None:
    *operands, out = small()
    tile = LtAlgorithm(FIRST, torch.empty(8, dtype=torch.uint8))
    library.beside(reference.linear)(*operands, gelu=gelu, out=out, tile=tile)
    expected = torch.nn.functional.gelu(torch.ones_like(out), approximate=gelu)
    torch.testing.assert_close(out, expected)


def test_a_tile_of_ours_goes_to_the_kernel(library: CublasLt) -> None:
    *operands, out = small()
    library.beside(reference.linear)(*operands, out=out)
    torch.testing.assert_close(out, torch.full_like(out, 9.0))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda x, weight, bias, out: (x.transpose(0, 1), weight, bias, out.transpose(0, 1)),
        lambda x, weight, bias, out: (x, weight[:, :4], bias, out),
        lambda x, weight, bias, out: (x, weight.bfloat16(), bias, out),
        lambda x, weight, bias, out: (x, weight, bias[:8], out),
        lambda x, weight, bias, out: (x, weight, bias, out[..., :8]),
        lambda x, weight, bias, out: tuple(t.double() for t in (x, weight, bias, out)),
    ],
)
def test_operands_that_the_library_would_read_wrongly_are_refused(
    spoil: Callable[..., Any], library: CublasLt
) -> None:
    x, weight, bias, out = spoil(*small())
    with pytest.raises(ValueError, match="linear by cuBLASLt: got"):
        library.linear(x, weight, bias, None, out, LtAlgorithm(FIRST, x))


def test_a_name_that_the_library_does_not_have_is_refused(library: CublasLt) -> None:
    *operands, out = small()
    forged = LtAlgorithm((*FIRST[:-1], 1), out)
    with pytest.raises(ValueError, match="cuBLASLt 130001 has no algorithm"):
        library.linear(*operands, None, out, forged)


def test_algorithms_are_candidates_and_the_fastest_is_kept(
    library: CublasLt, tmp_path: Path
) -> None:
    path, best = tmp_path / "tune.json", LinearConfig("lt", SECOND)
    bench = Bench({best: 0.5})
    first = Tuner("H200", path, bench.measure, algorithms=library.algorithms)
    assert first.linear(PROJ, bench.make) == best
    assert {choice.tile for choice in bench.made if choice.kind == "lt"} == {FIRST, SECOND}
    again = Tuner("H200", path, None, algorithms=library.algorithms)
    assert again.linear(PROJ, bench.make) == best


def test_what_the_library_no_longer_names_is_measured_again(
    library: CublasLt, tmp_path: Path
) -> None:
    path, best = tmp_path / "tune.json", LinearConfig("lt", SECOND)
    bench = Bench({best: 0.5})
    Tuner("H200", path, bench.measure, algorithms=library.algorithms).linear(PROJ, bench.make)
    # As of a file that was written by hand, or a version without this algorithm.
    other = Bench({LinearConfig("lt", FIRST): 0.5})
    later = Tuner("H200", path, other.measure, algorithms=lambda problem: (FIRST,))
    assert later.linear(PROJ, other.make) == LinearConfig("lt", FIRST)
    assert best not in other.made


def test_a_library_that_fails_leaves_the_other_candidates_and_is_named() -> None:
    def fails(problem: LinearProblem) -> Any:
        raise RuntimeError("cublasLtCreate: CUBLAS_STATUS_NOT_INITIALIZED")

    bench = Bench({})
    tuner = Tuner("H200", None, bench.measure, algorithms=fails)
    assert len(tuner.to_measure(PROJ)) == len(linear_candidates(PROJ))
    assert tuner.linear(PROJ, bench.make) in linear_candidates(PROJ)
    (reason,) = tuner.skipped
    assert "CUBLAS_STATUS_NOT_INITIALIZED" in reason


class ByTheLibrary(Tuner):
    """Every product by an algorithm of cuBLASLt's."""

    def linear(self, problem: Any, make: Any, check: Any = None) -> Any:
        if problem.sources == 2:
            return LinearConfig("halves")
        return LinearConfig("lt", FIRST)


@pytest.mark.parametrize("make", [toy_dit, toy_uvit])
def test_a_program_of_such_products_has_one_workspace_of_its_own(make: Any) -> None:
    model, kernels = make(), TapedKernels()
    schedule = random_schedule(STEPS, count_branches(model), seed=3)
    tuner = ByTheLibrary("tape", None, None, device="cpu")
    plain = compile_taped(model, schedule)
    fast = [compile_taped(model, schedule, kernels=kernels, tuner=tuner) for _ in range(2)]
    wanted = drive(plain, STEPS)
    for session in fast:
        assert_near(drive(session, STEPS), wanted)
    tiles = [named["tile"] for name, _, named in kernels.log if name == "linear"]
    assert all(isinstance(tile, LtAlgorithm) and tile.name == FIRST for tile in tiles)
    # Two sessions may run at once.
    assert len({tile.workspace.data_ptr() for tile in tiles}) == 2
    assert {tile.workspace.numel() for tile in tiles} == {WORKSPACE_BYTES}
    sizes = [
        program.graph_stats.buffer_bytes
        for session in (*fast, plain)
        for lane in session.run.lanes.all()
        for program in lane.workspace.programs
    ]
    assert [size - sizes[2] for size in sizes[:2]] == [WORKSPACE_BYTES] * 2


def test_a_choice_without_a_workspace_is_refused() -> None:
    *operands, out = small()
    with pytest.raises(ValueError, match='"lt", which needs a workspace'):
        run_linear(LinearConfig("lt", FIRST), reference, *operands, None, out)
