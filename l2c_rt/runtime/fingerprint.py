"""What may change about the user's model under a compiled one, looked at once per run."""

from __future__ import annotations

from torch import Tensor, nn


def fingerprint(model: nn.Module) -> int:
    """A hash of the model's tensors (address, count of in-place writes) and modules.

    Changes with load_state_dict, optimizer steps, LoRA, `.to()`, `.train()`, replaced modules and
    hooks.  Writes through `.data` leave no mark in PyTorch; they are used by the next run all the
    same, since nothing made from weights outlives a run, but they are not counted.
    """
    # On the way of every run before the device has work, so without nn.Module's slow generators.
    found: list[object] = []
    waiting, seen = [model], set[int]()
    while waiting:
        module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found += (id(module), module.training, _hooks(module), "forward" in module.__dict__)
        for tensors in (module._parameters, module._buffers):
            found += [_identity(tensor) for tensor in tensors.values() if tensor is not None]
        waiting += [child for child in module._modules.values() if child is not None]
    return hash(tuple(found))


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


def check_bypassed(modules: tuple[nn.Module, ...]) -> tuple[str, ...]:
    """Reasons for what is not called of modules whose parts are run one by one.

    Raises ValueError for a forward that was replaced on an instance: it would be left out.
    """
    for module in modules:
        if "forward" in vars(module):
            raise ValueError(
                f"{type(module).__name__}.forward was replaced on the instance; a compiled model "
                "runs its parts one by one and would not call it: remove the replacement"
            )
    hooked = sorted({type(module).__name__ for module in modules if _hooks(module)})
    return tuple(f"forward hooks on {name} are not called" for name in hooked)


def _hooks(module: nn.Module) -> int:
    return len(module._forward_hooks) + len(module._forward_pre_hooks)


def _identity(tensor: Tensor) -> tuple[int, int]:
    # Tensors made under torch.inference_mode keep no version counter.
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version
