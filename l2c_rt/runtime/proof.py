"""The proof of a description: one evaluation of the model's own forward on the same input.

A model may keep the names of a known one and compute something else.  The plan's evaluation 0
computes everything, so it must give what the model's own forward gives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.stage import Stage

CHECKS = ("on", "off")
REMEDY = (
    "Describe it with an adapter (docs/adding-a-model.md) and give adapter=, or pass check='off' "
    "if the difference is meant"
)
ROUNDING = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 3e-2,
            torch.float8_e4m3fn: 3e-1}  # fmt: skip
"""How far a fused backend may be from the model's own output, as |difference| / |output|."""


class Proof:
    """Which structures of a model have been proved.  Asked at every run's first evaluation.

    `status` is the line of `summary()` about it.
    """

    def __init__(self, check: str) -> None:
        if check not in CHECKS:
            raise ValueError(f"check: got {check!r}, wanted one of {', '.join(CHECKS)}")
        self.status = "not yet, at the first run" if check == "on" else "no, check='off'"
        self._on = check == "on"
        self._proved: set[int] = set()
        self._last: BoundModel | None = None

    def due(self, model: BoundModel, *, copies: bool = False) -> bool:
        """Whether this structure has not been proved yet; a model's own forward needs no proof but
        for the products that are done with `copies` of its weights."""
        if model.open_stage is not None and not copies:
            self.status = "not needed, it is what runs"
            return False
        if model.unproved:
            self.status = f"no, {model.unproved}"
            return False
        if not self._on or model is self._last:
            return False
        if structure(model) in self._proved:
            self._last = model
            return False
        # Reading a result would end a capture: the first call outside one is checked.
        return not (model.device.type == "cuda" and torch.cuda.is_current_stream_capturing())

    def check(
        self,
        model: BoundModel,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        out: object,
        *,
        exact: bool,
        dtype: torch.dtype | None = None,
    ) -> str:
        """Compare `out`, an evaluation that computed everything, with the model's own.

        Bitwise where `exact` (the reference's arithmetic is the model's own), elsewhere within the
        `ROUNDING` of `dtype`, None for that of the output.
        Returns what differs and from which block on; "" where nothing does.
        """
        problem, error = _difference(out, own_forward(model.model, args, kwargs), exact, dtype)
        if problem:
            return problem if model.open_stage else _refusal(model, args, kwargs, problem)
        self._proved.add(structure(model))
        self._last = model
        self.status = "equal" if exact else f"equal up to rounding ({error:.1g} of the output)"
        return ""


def own_forward(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> object:
    """The model's own forward with its hooks, not the code that `model.compile()` made of it."""
    with torch.no_grad():
        return model._call_impl(*args, **kwargs)  # type: ignore[no-untyped-call]


def described_forward(
    model: BoundModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[object, list[tuple[int, Tensor]]]:
    """The same evaluation by the description's functions, and the stream after each block."""
    streams: list[tuple[int, Tensor]] = []
    blocks = {branch.name: branch.block for branch in model.program.branches}
    with torch.no_grad():
        state = model.begin(*args, **kwargs)
        for node in model.program.nodes:
            if node.name in blocks:
                code = model.branches[node.name]
                code.add(state, code.compute(state))
                streams = [entry for entry in streams if entry[0] != blocks[node.name]]
                streams.append((blocks[node.name], state.x))
            else:
                model.fixed[node.name](state)
        return model.finish(state), streams


def structure(model: BoundModel) -> int:
    """Classes of all modules: another class of the same names may have another forward."""
    return hash((model.program, *(type(module) for module in model.model.modules())))


def _difference(
    ours: object, own: object, exact: bool, dtype: torch.dtype | None
) -> tuple[str, float]:
    """What differs between two return values of the model, empty where nothing does, and the
    largest |difference| / |output| of their tensors."""
    a, b = (
        [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)] for value in (ours, own)
    )
    shapes = [[(tuple(t.shape), t.dtype) for t in side] for side in (a, b)]
    if shapes[0] != shapes[1]:
        return f"it gives {_spell(shapes[1])}, described it gives {_spell(shapes[0])}", 0.0
    largest = 0.0
    for x, y in zip(a, b, strict=True):
        # Where both are NaN or the same infinity they are equal.
        other = (x != y) & ~(x.isnan() & y.isnan())
        if not bool(other.any()):
            continue
        difference = torch.where(other, x.double() - y.double(), 0.0)
        error = float(difference.norm() / y.double().nan_to_num().norm().clamp_min(1e-30))
        largest = max(largest, error)
        if exact or not error <= ROUNDING.get(dtype or y.dtype, 1e-4):
            return f"the outputs differ by {error:.2g} of their size", error
    return "", largest


def _spell(shapes: list[tuple[tuple[int, ...], torch.dtype]]) -> str:
    return ", ".join(f"{list(shape)} {str(dtype)[6:]}" for shape, dtype in shapes) or "no tensor"


def _refusal(
    model: BoundModel, args: tuple[Any, ...], kwargs: Mapping[str, Any], problem: str
) -> str:
    name = type(model.model).__name__
    return (
        f"{name} has the layers of a {model.program.family} model and computes something else: "
        f"{problem}{_first_block(model, args, kwargs)}"
    )


def _first_block(model: BoundModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Where the streams part, as text: the blocks' own outputs against the description's."""
    outputs: list[Tensor] = []
    blocks = {id(module) for module in model.bypassed[1:]}
    paths = [path for path, module in model.model.named_modules() if id(module) in blocks]

    def visit(
        path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        outputs.append(module(*args, **kwargs))
        return outputs[-1]

    own_forward(Stage(model.model, paths, visit).root, args, kwargs)
    streams = described_forward(model, args, kwargs)[1]
    if len(outputs) != len(streams) or not all(isinstance(out, Tensor) for out in outputs):
        return ""
    for (block, ours), theirs in zip(streams, outputs, strict=True):
        if ours.shape != theirs.shape or not torch.equal(ours, theirs):
            return f", from block {block} on"
    return ", after the last block"
