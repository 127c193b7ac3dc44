"""The kernels, each compared with its meaning at every call, on the tensors that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from l2c_rt.backends.backend import WrongResultError
from l2c_rt.kernels import reference
from l2c_rt.kernels.operands import FinalLinear, Modulation, PatchEmbedding, Reuses, Solver

TOLERANCES = {torch.float8_e4m3fn: 2**-3, torch.bfloat16: 2**-5, torch.float16: 2**-8,
              torch.float32: 2e-3}  # fmt: skip
"""Of the largest value: some eight roundings; for float32 those of TF32, which a user may allow."""

Place = tuple[int, tuple[int, ...], tuple[int, ...], torch.dtype]
"""Address, shape, strides and dtype of a tensor."""


class ComparedKernels:
    """`kernels` with the same functions.  Between `begin` and `end` every call is compared.

    `worst` has the largest difference of each kernel, as a share of what is allowed.
    Raises, from a call: WrongResultError with the kernel, what it wrote, shapes and difference.
    """

    def __init__(self, kernels: Any) -> None:
        self._kernels, self._comparing = kernels, False
        self.worst: dict[str, float] = {}

    def begin(self) -> None:
        """Compare from now on."""
        self._comparing = True

    def end(self) -> None:
        """From now on the functions are the kernels themselves."""
        self._comparing = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(self._kernels, name)
        return partial(self._compared, name, function) if self._comparing else function

    def _compared(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        exact = Exact()
        expected_args = tuple(exact.of(value) for value in args)
        expected_kwargs = {key: exact.of(value) for key, value in kwargs.items()}
        getattr(reference, name)(*expected_args, **expected_kwargs)
        result = function(*args, **kwargs)
        pairs = list(exact.pairs())
        narrow = any(got.dtype == torch.float8_e4m3fn for got, _ in pairs)
        for got, expected in pairs:
            if name == "split_linear" and got is kwargs["out"]:
                # Where the cuts lie is the kernel's business.
                got, expected = got.sum(0), expected.sum(0)
            self._judge(name, got, expected, narrow)
        return result

    def _judge(self, name: str, got: Tensor, expected: Tensor, narrow: bool) -> None:
        # The scale of a row in 8 bits is made of the row in bfloat16.
        dtype = torch.bfloat16 if narrow and got.dtype == torch.float32 else got.dtype
        share = difference(got, expected) / TOLERANCES.get(dtype, 2e-3)
        self.worst[name] = max(share, self.worst.get(name, 0.0))
        if not share <= 1.0:
            raise WrongResultError(
                f"the kernel {name} computes something else than its meaning on this machine: a "
                f"{list(got.shape)} {str(got.dtype)[6:]} tensor differs by {share:.3g} times what "
                "rounding may do"
            )


def difference(got: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value; NaN equals NaN."""
    a, b = got.detach().float(), expected.detach().float()
    equal = (a == b) | (a.isnan() & b.isnan())
    most = torch.where(equal, 0.0, (a - b).abs()).nan_to_num(torch.inf).max() if a.numel() else 0.0
    scale = b.nan_to_num(0.0, 0.0, 0.0).abs().max() if b.numel() else 0.0
    return max(0.0, float(most) - 1e-6) / max(float(scale), 1e-6)


class Exact:
    """Copies of a call's arguments in float32, in which a reference does not round.

    What is one tensor stays one.  Slots, tables and weights in records are only read, so that of
    the first two only what the call reads is copied.
    """

    def __init__(self) -> None:
        self._copies: dict[Place, tuple[Tensor, Tensor]] = {}
        self._counter: tuple[Tensor, int, Tensor] | None = None

    def of(self, value: Any) -> Any:
        """The same argument, copied."""
        if isinstance(value, Tensor):
            return self._copied(value)
        if isinstance(value, tuple):
            return tuple(self.of(item) for item in value)
        if isinstance(value, Reuses):
            arena = value.arena[value.slots.long()].float()
            order = torch.arange(len(value.slots), dtype=torch.int32, device=arena.device)
            return replace(value, arena=arena, slots=order)
        if isinstance(value, Modulation):
            step, counter = self._counted(value.counter)
            return replace(value, table=value.table[step].float()[None], counter=counter)
        if isinstance(value, Solver):
            step, counter = self._counted(value.counter)
            row = value.coefficients[step][None].clone()
            anchor = None if value.anchor is None else self._copied(value.anchor)
            return Solver(row, counter, anchor)
        if isinstance(value, PatchEmbedding):
            weight, bias = value.weight.float(), value.bias.float()
            return replace(value, weight=weight, bias=bias, positions=value.positions.float())
        if isinstance(value, FinalLinear):
            return replace(value, weight=value.weight.float(), bias=value.bias.float())
        return value

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(the call's own tensor, what it should hold after the call)."""
        yield from self._copies.values()
        if self._counter is not None:
            own, step, copy = self._counter
            expected = copy.clone()
            expected[0] += step
            yield own, expected

    def _copied(self, tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if key not in self._copies:
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            self._copies[key] = tensor, tensor.to(dtype, copy=True)
        return self._copies[key][1]

    def _counted(self, counter: Tensor) -> tuple[int, Tensor]:
        """The evaluation under way, and a counter for tables that have its row only."""
        if self._counter is None:
            self._counter = counter, int(counter[0]), torch.zeros_like(counter)
        return self._counter[1:]
