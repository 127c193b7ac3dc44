"""The linears of one model on a CPU, each by the faster of two products.

"addmm" is PyTorch's own, on the user's weight; "packed" is oneDNN's, on a copy in its layout.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from l2c_rt.backends.cpu.machine import ROUNDS, cpu_measure, machine_key
from l2c_rt.backends.cpu.packed import packed_product, why_not_here, why_not_packed
from l2c_rt.backends.cpu.weights import LinearWeight
from l2c_rt.backends.tuning.cache_file import default_path
from l2c_rt.backends.tuning.chooser import Chooser
from l2c_rt.backends.tuning.problems import LinearConfig, LinearProblem

ADDMM, PACKED = LinearConfig("addmm"), LinearConfig("packed")
WAYS = {"addmm": ADDMM, "packed": PACKED}
MAX_CHOICES = 64
"""That one linear remembers; one that is given ever new numbers of rows starts over."""
CLOSE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
"""How far a packed product may be from PyTorch's own, as |difference| / |product|."""


def product_chooser() -> Chooser:
    """The choices of this machine, measured where none is remembered."""
    return Chooser(machine_key(), default_path(), cpu_measure, rounds=ROUNDS)


def unmeasured() -> Chooser:
    """The choice of "addmm" for all."""
    return Chooser("", None, None)


class Products:
    """Products of linears, packed where that is faster; one for all runs of a model.

    `dtype` is that of the products, with a copy of the weights where theirs is another; None for
    each weight's own.  `way` forces one of `WAYS`; a linear that cannot be packed takes "addmm" all
    the same, and `reasons` says why.  A weight that was replaced or written to is packed anew; a
    write through `.data`, which PyTorch does not count, is noticed by `begin_run`.
    """

    def __init__(
        self, chooser: Chooser, *, dtype: torch.dtype | None = None, way: str | None = None
    ) -> None:
        if way not in (None, *WAYS):
            raise ValueError(f"way: got {way!r}, wanted one of {', '.join(WAYS)} or None")
        self.chooser, self.dtype, self.way = chooser, dtype, way
        self._why_not_here = why_not_here()
        self._weights: dict[nn.Linear, LinearWeight] = {}
        self._lock = threading.Lock()

    def __call__(
        self, x: Tensor, module: nn.Linear, gelu: str | None = None, out: Tensor | None = None
    ) -> Tensor:
        """gelu(module(x)), without the module's hooks; no gradients.

        `gelu` is PyTorch's `approximate`.  The result may be `out`, where that is given, or a new
        tensor that leaves it as it was.
        Shapes: x [..., K], any strides; out and result [..., N], contiguous.
        """
        weight = self._weights.get(module)
        if weight is None or not weight.is_of(module):
            weight = self._new_weight(module)
        choice = weight.choices.get((x.shape[:-1], gelu))
        if choice is None:
            choice = self._choose(weight, x, gelu)
        if choice is PACKED and x.dtype == weight.dtype:
            return packed_product(x, weight.packed_copy(), weight.bias, gelu)
        return plain_product(x, weight, gelu, out)

    @property
    def nbytes(self) -> int:
        """Memory of the copies."""
        return sum(weight.nbytes for weight in list(self._weights.values()))

    def begin_run(self) -> None:
        """Forget the copies of weights that were written to through `.data` since."""
        for module, weight in list(self._weights.items()):
            if not weight.bits_are_the_same():
                self._weights.pop(module, None)

    def drop(self) -> None:
        """Give the copies back; the next products make new ones."""
        self._weights = {}

    def reasons(self, named: Iterable[tuple[str, nn.Module]]) -> tuple[str, ...]:
        """Which of these linears are not packed and why, one line for each reason."""
        if self.way == "addmm":
            return ()
        if self._why_not_here:
            return (f"no packed products: {self._why_not_here}",)
        names: dict[str, list[str]] = {}
        for name, module in named:
            if isinstance(module, nn.Linear) and (reason := why_not_packed(module, self.dtype)):
                names.setdefault(reason, []).append(name)
        return tuple(_not_packed(linears, reason) for reason, linears in names.items())

    def _new_weight(self, module: nn.Linear) -> LinearWeight:
        # Two sessions at once would each make a copy.
        with self._lock:
            weight = self._weights.get(module)
            if weight is None or not weight.is_of(module):
                weight = self._weights[module] = LinearWeight(module, self.dtype)
            return weight

    def _choose(self, weight: LinearWeight, x: Tensor, gelu: str | None) -> LinearConfig:
        choice = WAYS.get(self.way or "")
        if self._why_not_here or weight.why_not or x.numel() == 0:
            choice = ADDMM
        if choice is None:
            choice = self._measured(weight, x, gelu)
        if len(weight.choices) >= MAX_CHOICES:
            weight.choices.clear()
        weight.choices[x.shape[:-1], gelu] = choice
        return choice

    def _measured(self, weight: LinearWeight, x: Tensor, gelu: str | None) -> LinearConfig:
        columns, inner = weight.source.shape
        problem = LinearProblem(
            x.numel() // inner, columns, inner, weight.bias is not None, gelu,
            str(weight.dtype).removeprefix("torch."), splittable=False,
        )  # fmt: skip
        sample = x.to(weight.dtype)

        def product(choice: LinearConfig) -> Tensor:
            if choice is ADDMM:
                return plain_product(sample, weight, gelu)
            return packed_product(sample, weight.packed_copy(), weight.bias, gelu)

        def check(choice: LinearConfig) -> bool:
            return choice is ADDMM or _are_close(product(choice), product(ADDMM))

        def make(choice: LinearConfig) -> Callable[[], None]:
            return partial(_discard, product, choice)

        chosen = self.chooser.choose(problem, (ADDMM, PACKED), make, check)
        weight.keep_only(packed=chosen is PACKED)
        return chosen


def plain_product(
    x: Tensor, weight: LinearWeight, gelu: str | None, out: Tensor | None = None
) -> Tensor:
    """gelu(x weight^T + bias) by PyTorch's own product, in `out` where that is given."""
    plain, bias = weight.plain, weight.bias
    if out is None or x.dtype != out.dtype:
        y = F.linear(x, plain, bias)
    else:
        y, flat, rows = out, x.reshape(-1, x.shape[-1]), out.view(-1, out.shape[-1])
        if bias is None:
            torch.mm(flat, plain.t(), out=rows)
        else:
            torch.addmm(bias, flat, plain.t(), out=rows)
    return y if gelu is None else torch.ops.aten.gelu_(y, approximate=gelu)


def _discard(product: Callable[[LinearConfig], Tensor], choice: LinearConfig) -> None:
    product(choice)


def _are_close(got: Tensor, expected: Tensor) -> bool:
    difference = (got.float() - expected.float()).norm()
    return bool(difference <= CLOSE[expected.dtype] * expected.float().norm())


def _not_packed(names: list[str], reason: str) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"not packed: {', '.join(names[:3])}{more}: {reason}"
