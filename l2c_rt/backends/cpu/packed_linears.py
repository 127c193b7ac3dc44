"""The linears of a model that runs its own forward, by the faster of two products.

At each stands a stand-in (`adapters.own.stage`); the modules between a cut point and a linear are
copies like those above it, so whatever a copy would not run stays as it is, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from l2c_rt.adapters.model_checks import count_hooks
from l2c_rt.adapters.own.instance_hooks import INSTANCE_FORWARD
from l2c_rt.adapters.wrappers import compiled_by_torch
from l2c_rt.backends.backend import Backend, Workspace
from l2c_rt.backends.cpu.packed import why_not_here, why_not_packed
from l2c_rt.backends.cpu.products import Products
from l2c_rt.plan.ops import Plan


class PackedLinears:
    """Which linears take part, and their products; one for all workspaces of a model.

    `reasons` has a line for each reason why some do not.
    """

    def __init__(self, model: nn.Module, products: Products) -> None:
        self.products = products
        self.paths: frozenset[str] = frozenset()
        self.reasons: tuple[str, ...] = ()
        if why_not := why_not_here():
            self.reasons = (f"no packed products: {why_not}",)
            return
        paths, refused = [], dict[str, list[str]]()
        for path, why_not in _linears(model):
            if why_not:
                refused.setdefault(why_not, []).append(path)
            else:
                paths.append(path)
        self.paths = frozenset(paths)
        self.reasons = tuple(_not_packed(names, reason) for reason, names in refused.items())

    def call(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The linear's output: as its own forward gives it, up to rounding where it is packed."""
        if (
            len(args) != 1 or kwargs or type(args[0]) is not Tensor
            or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")
            # An observer of the forward counts PyTorch's own products.  Asked of this thread:
            # torch's Python flag is of all threads, and stays set where two leave in another order.
            or torch._C._len_torch_dispatch_stack()
            # Registered in the middle of a run: its beginning would have noticed them.
            or module._forward_hooks or module._forward_pre_hooks
        ):  # fmt: skip
            return module(*args, **kwargs)
        assert isinstance(module, nn.Linear)
        return self.products(args[0], module)

    @property
    def nbytes(self) -> int:
        """Memory of the copies; 0 where every linear is PyTorch's own product."""
        return self.products.nbytes

    def begin_run(self) -> None:
        self.products.begin_run()

    def drop(self) -> None:
        self.products.drop()


def packed(
    plain: Backend,
    linears: PackedLinears,
    workspace: Callable[[PackedLinears, Plan], Workspace],
) -> Backend:
    """A backend with the products of a model's linears."""
    return replace(
        plain, workspace=partial(workspace, linears), copies=linears, without_copies=plain,
        notes=linears.reasons,
    )  # fmt: skip


def _linears(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Every linear by its path, and why its product is not ours, or nothing."""
    waiting, seen = [("", model, "")], {id(model)}
    while waiting:
        path, module, outside = waiting.pop()
        if isinstance(module, nn.Linear):
            yield path, outside or _why_not(module)
        # The root and its way to the cut points are copies in any case.
        outside = outside or (_why_not_copied(module) if path else "")
        # The last is taken first.
        for name, child in reversed(module._modules.items()):
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{path}.{name}" if path else name, child, outside))


def _why_not(linear: nn.Linear) -> str:
    if type(linear) is not nn.Linear:
        return f"{type(linear).__name__} is more than a linear"
    if count_hooks(linear):
        return "it has hooks"
    return why_not_packed(linear)


def _why_not_copied(module: nn.Module) -> str:
    """Why a linear inside of this module stays in the user's own object."""
    if count_hooks(module):
        return f"inside a {type(module).__name__} with hooks"
    if compiled_by_torch(module):
        return f"inside a {type(module).__name__} that torch.compile compiled"
    if isinstance(module, torch.jit.ScriptModule):
        return "inside a script module"
    if any(name in vars(module) for name in INSTANCE_FORWARD):
        return f"inside a {type(module).__name__} whose forward was replaced"
    return ""


def _not_packed(names: list[str], reason: str) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"not packed: {', '.join(names[:3])}{more}: {reason}"
