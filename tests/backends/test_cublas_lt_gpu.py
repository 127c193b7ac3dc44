"""Products by cuBLASLt's algorithms on the GPU itself."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from l2c_rt.backends.cuda.branch_tuning import LinearTask, settle
from l2c_rt.backends.cuda.cublas_lt import MOST, CublasLt, LtAlgorithm, Name, workspace_on
from l2c_rt.backends.cuda.cuda_parts import triton_kernels
from l2c_rt.backends.cuda.tuning.tuner import Tuner, cuda_measure
from l2c_rt.backends.tuning.problems import LinearProblem

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]

LINEARS = [
    LinearProblem(512, 3456, 1152, True, None, "bfloat16", False),
    LinearProblem(512, 1152, 1152, True, None, "bfloat16", True),
    LinearProblem(512, 4608, 1152, True, "tanh", "bfloat16", False),
    LinearProblem(516, 4608, 1152, True, "none", "float16", False),
    LinearProblem(516, 3456, 1152, False, None, "bfloat16", False),
    LinearProblem(512, 1152, 4608, True, None, "bfloat16", True),
    LinearProblem(64, 48, 40, True, "tanh", "float32", False),
]


class Layer:
    """A linear layer's operands, its output between two rows that nothing may touch."""

    def __init__(self, problem: LinearProblem) -> None:
        generator = torch.Generator("cuda").manual_seed(1)
        dtype = getattr(torch, problem.dtype)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, device="cuda", generator=generator).to(dtype)

        self.problem = problem
        self.x = normal(problem.rows, problem.inner)
        self.weight = normal(problem.columns, problem.inner) / problem.inner**0.5
        self.bias = normal(problem.columns) if problem.bias else None
        self.whole = torch.full((problem.rows + 2, problem.columns), 7.0, device="cuda").to(dtype)
        self.out = self.whole[1:-1]
        self.library = CublasLt(torch.device("cuda"))
        self.room = workspace_on(self.x.device)

    def run(self, name: Name) -> None:
        operands = (self.x, self.weight, self.bias, self.problem.gelu)
        self.library.linear(*operands, self.out, LtAlgorithm(name, self.room))

    def takes(self, name: Name) -> bool:
        """Whether the library does not refuse what it proposed; the tuner passes over those."""
        try:
            self.run(name)
        except RuntimeError as error:
            if "CUBLAS_STATUS" in str(error):
                return False
            raise
        return True

    def plain(self, dtype: torch.dtype) -> Tensor:
        bias = None if self.bias is None else self.bias.to(dtype)
        y = F.linear(self.x.to(dtype), self.weight.to(dtype), bias)
        return y if self.problem.gelu is None else F.gelu(y, approximate=self.problem.gelu)


@pytest.mark.parametrize("problem", LINEARS, ids=str)
def test_every_algorithm_computes_the_layer(problem: LinearProblem) -> None:
    layer = Layer(problem)
    eager, true = layer.plain(layer.x.dtype), layer.plain(torch.float64)
    limit = 2 * (eager.double() - true).abs().max() + torch.finfo(eager.dtype).eps
    names, ran = layer.library.algorithms(problem), 0
    for name in names:
        layer.out.fill_(float("nan"))
        if layer.takes(name):
            assert (layer.out.double() - true).abs().max() <= limit, name
            ran += 1
    assert (layer.whole[[0, -1]] == 7).all()
    assert ran > len(names) / 2


@pytest.mark.parametrize("problem", LINEARS[:3], ids=str)
def test_names_are_the_same_whenever_they_are_asked_for(problem: LinearProblem) -> None:
    first, second = (CublasLt(torch.device("cuda")).algorithms(problem) for _ in range(2))
    assert first == second
    assert len(set(first)) == len(first) > 1
    assert len([name for name in first if name[3] == 1]) <= MOST


def test_a_captured_product_with_cuts_replays_bitwise_on_new_values() -> None:
    layer = Layer(LINEARS[5])
    # The inner dimension is long: some algorithm of these cuts it.
    names = [name for name in layer.library.algorithms(layer.problem) if layer.takes(name)]
    name = max(names, key=lambda name: name[3])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        layer.run(name)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        layer.run(name)
    for seed in (2, 3):
        layer.x.normal_(generator=torch.Generator("cuda").manual_seed(seed))
        layer.run(name)
        wanted = layer.out.clone()
        layer.out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(layer.out, wanted)


def test_the_tuner_measures_algorithms_beside_the_other_candidates() -> None:
    pytest.importorskip("triton")
    layer, kernels = Layer(LINEARS[1]), triton_kernels()
    kernels.linear = layer.library.beside(kernels.linear)
    tuner = Tuner("test", None, cuda_measure(), algorithms=layer.library.algorithms)
    task = LinearTask(layer.problem, layer.x, [(layer.weight, layer.bias)], layer.out)
    candidates = tuner.to_measure(layer.problem)
    assert {choice.kind for choice in candidates} == {"addmm", "lt", "triton", "split"}
    assert settle([task], tuner, kernels)[layer.problem] in candidates
    # The library refuses a few of the cuts at most.
    assert tuner.measured > len(candidates) // 2
    assert not [reason for reason in tuner.skipped if "WrongResult" in reason]
