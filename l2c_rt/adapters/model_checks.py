"""What about a user's model stands against compiling it, or is not carried out once compiled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def check_mode(model: nn.Module) -> None:
    """Refuse a model whose forward is random: what is reused would not be what was computed."""
    if not model.training:
        return
    for name, module in model.named_modules():
        drops = isinstance(module, nn.Dropout) and module.p > 0
        if drops or getattr(module, "dropout_prob", 0) > 0:
            raise ValueError(
                f"the model is in training mode and {name!r} drops at random; call model.eval()"
            )


def check_bypassed(modules: Sequence[nn.Module]) -> tuple[str, ...]:
    """Notes on the hooks of modules whose children are run one by one: they are not called.

    Raises ValueError for a forward that was replaced on an instance: it would be left out.
    """
    for module in modules:
        if "forward" in vars(module):
            raise ValueError(
                f"{type(module).__name__}.forward was replaced on the instance; a compiled model "
                "runs its children one by one and would not call it: remove the replacement"
            )
    hooked = sorted({type(module).__name__ for module in modules if count_hooks(module)})
    return tuple(f"forward hooks on {name} are not called" for name in hooked)


def count_hooks(module: nn.Module) -> int:
    """Forward hooks and forward pre-hooks of the module itself."""
    return len(module._forward_hooks) + len(module._forward_pre_hooks)
