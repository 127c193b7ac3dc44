"""Tuning on the GPU itself: that time is measured rightly, and that every candidate is right."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.backends.cuda.tuning.candidates import attention_candidates, linear_candidates
from l2c_rt.backends.cuda.tuning.runs import run_attention, run_linear, run_split
from l2c_rt.backends.cuda.tuning.tuner import Tuner, cuda_measure, describe_device
from l2c_rt.backends.tuning.chooser import CaptureInProgress
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

BF16 = torch.bfloat16
LINEARS = [
    LinearProblem(512, 3456, 1152, True, None, "bfloat16", False),
    LinearProblem(512, 1152, 1152, True, None, "bfloat16", True),
    LinearProblem(512, 4608, 1152, True, "tanh", "bfloat16", False),
    LinearProblem(516, 4608, 1152, True, "none", "bfloat16", False),
    LinearProblem(516, 3456, 1152, False, None, "bfloat16", False),
    LinearProblem(512, 1152, 4608, True, None, "bfloat16", True),
    LinearProblem(64, 48, 40, True, "tanh", "float32", False),
]
ATTENTIONS = [
    AttentionProblem(2, 256, 16, 72, "bfloat16"),
    AttentionProblem(2, 258, 16, 72, "bfloat16"),
    AttentionProblem(2, 64, 4, 72, "float32"),
]


def kernels() -> SimpleNamespace:
    pytest.importorskip("triton")
    names = ("linear", "split_linear", "attention")
    return SimpleNamespace(
        **{name: getattr(importlib.import_module(f"l2c_rt.kernels.{name}"), name) for name in names}
    )


class Linear:
    """A linear layer's operands, and its result by every choice."""

    def __init__(self, problem: LinearProblem) -> None:
        generator = torch.Generator("cuda").manual_seed(1)
        dtype = getattr(torch, problem.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device="cuda", generator=generator).to(dtype)

        self.problem, self.kernels = problem, kernels()
        self.x = normal(problem.rows, problem.inner)
        self.weight = normal(problem.columns, problem.inner) / problem.inner**0.5
        self.bias = normal(problem.columns) if problem.bias else None
        self.out = torch.empty(problem.rows, problem.columns, device="cuda", dtype=dtype)

    def make(self, choice: LinearConfig) -> Callable[[], None]:
        given = (choice, self.kernels, self.x, self.weight, self.bias)
        if choice.kind == "split":
            parts = torch.empty(choice.splits, *self.out.shape, device="cuda")
            return lambda: run_split(*given, parts)
        return lambda: run_linear(*given, self.problem.gelu, self.out)

    def result(self, choice: LinearConfig) -> Tensor:
        self.out.fill_(float("nan"))
        if choice.kind != "split":
            self.make(choice)()
            return self.out
        parts = torch.full((choice.splits, *self.out.shape), float("nan"), device="cuda")
        run_split(choice, self.kernels, self.x, self.weight, self.bias, parts)
        return parts.sum(0).to(self.out.dtype)

    def eager(self, dtype: torch.dtype) -> Tensor:
        bias = None if self.bias is None else self.bias.to(dtype)
        y = F.linear(self.x.to(dtype), self.weight.to(dtype), bias)
        return y if self.problem.gelu is None else F.gelu(y, approximate=self.problem.gelu)


def bounded(got: Tensor, eager: Tensor, true: Tensor) -> None:
    """Twice the error of eager PyTorch in the same dtype, and a rounding."""
    limit = 2 * (eager.double() - true).abs().max() + torch.finfo(got.dtype).eps
    assert (got.double() - true).abs().max() <= limit


@pytest.mark.parametrize("problem", LINEARS, ids=str)
def test_every_linear_candidate_computes_the_layer(problem: LinearProblem) -> None:
    layer = Linear(problem)
    eager, true = layer.eager(layer.x.dtype), layer.eager(torch.float64)
    for choice in linear_candidates(problem):
        bounded(layer.result(choice), eager, true)


# What PyTorch says where one of its kernels does not take a shape, in several warnings.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("problem", ATTENTIONS, ids=str)
def test_every_attention_candidate_mixes_the_values(problem: AttentionProblem) -> None:
    shape = (problem.batch, problem.tokens, 3 * problem.heads * problem.head)
    qkv = torch.randn(shape, device="cuda").to(getattr(torch, problem.dtype))

    def eager(qkv: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (problem.heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    for choice in attention_candidates(problem):
        out = torch.full_like(qkv[..., : shape[2] // 3], float("nan")).contiguous()
        try:
            mixed = run_attention(choice, kernels(), qkv, problem.heads, None, out)
        except RuntimeError:
            # PyTorch's own may refuse; the tuner passes over them.
            assert choice.kind in ("cudnn", "flash")
            continue
        assert mixed.is_contiguous()
        bounded(mixed, eager(qkv), eager(qkv.double()))


def test_the_time_of_a_long_kernel_is_that_between_events() -> None:
    # Not `copy_`, which in a graph is a memory node and slower than in a stream.
    source = torch.ones(1 << 28, device="cuda")
    target = torch.empty_like(source)
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        torch.neg(source, out=target)
    begun.record()
    for _ in range(10):
        torch.neg(source, out=target)
    ended.record()
    ended.synchronize()
    wanted = begun.elapsed_time(ended) / 1e4
    assert cuda_measure()(lambda: torch.neg(source, out=target)) == pytest.approx(wanted, rel=0.1)


def test_a_tiny_kernel_takes_less_than_launching_it() -> None:
    x = torch.zeros(64, device="cuda")
    # Launched one by one it would take what PyTorch needs to launch: several microseconds.
    assert 1e-7 < cuda_measure()(lambda: x.add_(1)) < 4e-6


def test_a_call_that_synchronises_is_timed_without_a_graph() -> None:
    x = torch.zeros(1 << 20, device="cuda")

    def call() -> None:
        x.add_(1)
        torch.cuda.synchronize()

    measure = cuda_measure()
    assert measure(call) > 0
    # The device is well afterwards, and captures again.
    assert 1e-7 < measure(lambda: x.add_(1)) < 1e-3
    assert torch.equal(x, x[:1].expand_as(x))


def test_timing_inside_a_capture_is_refused_and_leaves_the_capture_whole() -> None:
    x, graph, measure = torch.zeros(8, device="cuda"), torch.cuda.CUDAGraph(), cuda_measure()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=stream):
        x.add_(1)
        with pytest.raises(CaptureInProgress):
            measure(lambda: x.add_(1))
    graph.replay()
    assert x.tolist() == [1.0] * 8


def test_graphs_captured_before_still_replay_after_tuning() -> None:
    # cuBLAS workspaces belong to streams and go with the graphs captured there.
    layer = Linear(LINEARS[5])
    call = layer.make(LinearConfig("addmm"))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    wanted = layer.eager(BF16)
    other = Linear(LINEARS[0])
    Tuner("test", None, cuda_measure()).linear(LINEARS[0], other.make)
    torch.cuda.empty_cache()
    layer.out.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(layer.out, wanted)


@pytest.mark.parametrize("problem", LINEARS[:3], ids=str)
def test_what_is_chosen_is_no_slower_than_the_default_measured_again(
    problem: LinearProblem, tmp_path: Path
) -> None:
    layer, measure = Linear(problem), cuda_measure()
    path = tmp_path / "tune.json"
    chooser = Tuner(describe_device(), path, measure)
    winner = chooser.linear(problem, layer.make)
    assert chooser.notes == []
    assert chooser.measured + len(chooser.skipped) == len(linear_candidates(problem))
    default = linear_candidates(problem)[0]
    assert measure(layer.make(winner)) <= 1.1 * measure(layer.make(default))
    assert Tuner(describe_device(), path, None).linear(problem, layer.make) == winner


def test_attention_is_tuned_on_the_device() -> None:
    problem, given = ATTENTIONS[0], kernels()
    qkv = torch.randn(2, 256, 3 * 1152, device="cuda", dtype=BF16)
    out = torch.empty(2, 256, 1152, device="cuda", dtype=BF16)

    def make(choice: AttentionConfig) -> Callable[[], None]:
        def mix() -> None:
            run_attention(choice, given, qkv, 16, None, out)

        return mix

    chooser = Tuner(describe_device(), None, cuda_measure())
    assert chooser.attention(problem, make) in attention_candidates(problem)
    assert chooser.skipped == []
    # Compilation of six tiles included.
    assert chooser.seconds < 120


def test_the_device_is_described_by_name_size_driver_and_cudnn() -> None:
    text: Any = describe_device()
    assert torch.cuda.get_device_name() in text
    assert "multiprocessors, driver " in text
    assert "driver 0" not in text
