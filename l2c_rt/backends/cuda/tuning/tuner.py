"""Linear layers and attention on a GPU, each by the candidate that this machine runs fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from l2c_rt.backends.cuda.cublas_lt import Name
from l2c_rt.backends.cuda.tuning.candidates import attention_candidates, linear_candidates
from l2c_rt.backends.cuda.tuning.machine import describe_device, machine_key
from l2c_rt.backends.cuda.tuning.side_by_side import compile_side_by_side
from l2c_rt.backends.cuda.tuning.timer import cuda_measure
from l2c_rt.backends.tuning.cache_file import Problem, default_path
from l2c_rt.backends.tuning.chooser import Call, Chooser, Measure
from l2c_rt.backends.tuning.problems import (
    AttentionConfig,
    AttentionProblem,
    LinearConfig,
    LinearProblem,
)

__all__ = ["Tuner", "cuda_measure", "default_path", "describe_device", "machine_key"]


class Tuner(Chooser):
    """A `Chooser` for a GPU.

    `device_name` tells GPUs apart (`describe_device`).
    `device` is "cuda", or "cpu" where kernels.reference stands in.
    `algorithms` gives cuBLASLt's names for a problem; without it those are no candidates.
    """

    def __init__(
        self,
        device_name: str,
        path: Path | None,
        measure: Measure | None,
        *,
        device: str = "cuda",
        algorithms: Callable[[LinearProblem], Sequence[Name]] = lambda problem: (),
    ) -> None:
        # There and back: the clock falls under load, which would favour what comes first.
        super().__init__(machine_key(device_name), path, measure, rounds=2)
        self.device = device
        self.algorithms = algorithms

    def linear(
        self,
        problem: LinearProblem,
        make: Callable[[LinearConfig], Call],
        check: Callable[[LinearConfig], bool | None] | None = None,
    ) -> LinearConfig:
        """The choice for a linear layer.

        For a splittable problem `make` should include what reads the output: adding parts costs
        that kernel more reads than y would.
        """
        return self.choose(problem, self._linears(problem), make, check)

    def attention(
        self,
        problem: AttentionProblem,
        make: Callable[[AttentionConfig], Call],
        check: Callable[[AttentionConfig], bool | None] | None = None,
    ) -> AttentionConfig:
        """The choice for an attention; `make` and `check` as for `linear`."""
        return self.choose(problem, attention_candidates(problem, self.device), make, check)

    def to_measure(self, problem: Problem) -> tuple[LinearConfig | AttentionConfig, ...]:
        """The candidates of a problem that nothing is known of; none without a clock."""
        if isinstance(problem, LinearProblem):
            candidates: tuple[LinearConfig | AttentionConfig, ...] = self._linears(problem)
        else:
            candidates = attention_candidates(problem, self.device)
        return () if self.knows(problem, candidates) else candidates

    def compile_ahead(self, calls: Sequence[Call]) -> None:
        """Compile the kernels of calls side by side, without a launch; on a GPU only."""
        if self.device == "cuda":
            compile_side_by_side(calls)

    def failures(self) -> tuple[type[Exception], ...]:
        try:
            from triton.errors import TritonError
        except ImportError:
            return super().failures()
        return (*super().failures(), TritonError)

    def _linears(self, problem: LinearProblem) -> tuple[LinearConfig, ...]:
        """What is read of cuBLASLt's from a file is one of those that it names now, or unknown."""
        algorithms: Sequence[Name] = ()
        try:
            algorithms = self.algorithms(problem)
        except RuntimeError as error:
            reason = f"{problem}: no algorithms: {error}".splitlines()[0][:300]
            if reason not in self.skipped:
                self.skipped.append(reason)
        return linear_candidates(problem, self.device, algorithms)
