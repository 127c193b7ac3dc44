"""What may change about the user's model under a compiled one, looked at once per run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from l2c_rt.adapters.model_checks import count_hooks


def fingerprint(model: nn.Module) -> int:
    """A hash of the model's tensors (address, count of in-place writes) and modules.

    Changes with load_state_dict, optimizer steps, LoRA, `.to()`, `.train()`, replaced modules and
    hooks.  Writes through `.data` leave no mark in PyTorch; they are used by the next run all the
    same, since nothing made from weights outlives a run, but they are not counted.
    """
    # On the way of every run before the device has work, so without nn.Module's slow generators.
    marks: list[object] = []
    waiting, seen = [model], set[int]()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        own = module.__dict__
        marks += (
            id(module),
            module.training,
            count_hooks(module),
            "forward" in own,
            "_compiled_call_impl" in own,
        )
        for tensors in (module._parameters, module._buffers):
            marks += [_identity(tensor) for tensor in tensors.values() if tensor is not None]
        waiting += [child for child in module._modules.values() if child is not None]
    return hash(tuple(marks))


def _identity(tensor: Tensor) -> tuple[int, int]:
    # Tensors made under torch.inference_mode keep no version counter.
    version = 0 if tensor.is_inference() else tensor._version
    # A tensor that wraps others, as quantized weights do, has no address of its own.
    return tensor.data_ptr() or id(tensor), version


class PlainAttributes:
    """Plain attributes of modules, such as `num_heads` or `approximate`, to be compared later.

    A fused backend has taken them over, and nothing in PyTorch counts writes to them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        # Of these dictionaries themselves: a look at each value is all that a run costs.
        owners = [vars(module) for module in dict.fromkeys(modules)]
        self._sizes = [(own, len(own)) for own in owners]
        self._values = [
            (own, name, value)
            for own in owners
            for name, value in own.items()
            if not name.startswith("_") and name != "training"
        ]

    def unchanged(self) -> bool:
        """Whether every attribute is what it was, or equal to it where it is a number or text."""
        return all(len(own) == size for own, size in self._sizes) and all(
            own.get(name) is value or _equal(own.get(name), value)
            for own, name, value in self._values
        )


def _equal(now: Any, before: Any) -> bool:
    return (
        type(now) is type(before) and isinstance(now, int | float | str | tuple) and now == before
    )
