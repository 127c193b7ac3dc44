"""What may change about the user's model under a compiled one, looked at once per run."""

from __future__ import annotations

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
        marks += (id(module), module.training, count_hooks(module), "forward" in module.__dict__)
        for tensors in (module._parameters, module._buffers):
            marks += [_identity(tensor) for tensor in tensors.values() if tensor is not None]
        waiting += [child for child in module._modules.values() if child is not None]
    return hash(tuple(marks))


def _identity(tensor: Tensor) -> tuple[int, int]:
    # Tensors made under torch.inference_mode keep no version counter.
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version
