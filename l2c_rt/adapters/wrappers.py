"""What other packages put around a model or into it: recognised, and seen through or named."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn


def compiled_by_torch(module: nn.Module) -> bool:
    """Whether torch.compile has compiled it: by a wrapper, in place, or its class's forward."""
    wrapped = "_orig_mod" in module._modules or "_compiled_call_impl" in vars(module)
    return wrapped or _is_compiled(type(module).forward)


def without_torch_compile(module: nn.Module) -> nn.Module:
    """The module that torch.compile was given, or the module itself."""
    inner = module._modules.get("_orig_mod")
    return module if inner is None else inner


def replaced_forward(module: nn.Module) -> bool:
    """Whether a call of the module runs another forward than that of its class.

    A forward that was replaced and put back again, as accelerate's hooks are when they are removed,
    stays on the instance as a bound method of the class's own.
    """
    forward = vars(module).get("forward")
    if forward is None:
        return False
    own = isinstance(forward, MethodType) and forward.__self__ is module
    return not own or forward.__func__ is not type(module).forward


def diffusers_hooks(module: nn.Module) -> tuple[Any, ...]:
    """The hooks that diffusers has put around the module's forward, in the order of their names."""
    registry = vars(module).get("_diffusers_hook")
    return () if registry is None else tuple(registry.hooks.values())


def replacing_hook(module: nn.Module) -> Any:
    """The hook of diffusers that calls other code in place of the module's forward, or None."""
    hooks = (hook for hook in diffusers_hooks(module) if hasattr(hook, "new_forward"))
    # The one that calls the forward with another dtype for the adapters of peft is none.
    return next((h for h in hooks if type(h).__name__ != "PeftInputAutocastDisableHook"), None)


def replaced_by(hook: object, module: nn.Module) -> str:
    """What to say of a hook that calls other code in place of the module's forward."""
    return (
        f"{type(hook).__name__} of diffusers replaces the forward of {type(module).__name__}: "
        "another cache? Take it off, as by model.disable_cache()"
    )


def how_to_unwrap(module: nn.Module) -> str:
    """What to do about a module whose forward was replaced."""
    if "_hf_hook" in vars(module):
        return (
            "it is accelerate's hook, for offloading or device_map; take it off: "
            "accelerate.hooks.remove_hook_from_module(model, recurse=True), or "
            "pipe.remove_all_hooks()"
        )
    if "_original_forward" in vars(module):
        return (
            "it is accelerate's mixed precision; compile("
            "accelerator.unwrap_model(model, keep_fp32_wrapper=False), ...), cast to the dtype"
        )
    if _is_compiled(vars(module).get("forward")):
        return "it is torch.compile's, whose graphs would not be run; del module.forward"
    return (
        "remove the replacement (del module.forward); for an autocast, cast the model or call the "
        "compiled model under torch.autocast"
    )


def sharded_by_fsdp(model: nn.Module) -> bool:
    """Whether FullyShardedDataParallel holds the model or some of its modules.

    The modules inside are reachable and have no weights: those are in the wrapper, in pieces.
    """
    return any("_fsdp_wrapped_module" in module._modules for module in model.modules())


def find_wrapped(model: nn.Module, matches: Callable[[nn.Module], bool]) -> str:
    """How to reach the model that this one is wrapped around, as `model.module`; "" for none.

    A wrapper hands attributes of the model through, as PeftModel does, and may so look like it.
    """
    if type(model).__getattr__ is nn.Module.__getattr__ and matches(model):
        return ""
    for path, module in model.named_modules():
        passes_on = type(module).__getattr__ is not nn.Module.__getattr__
        if path and matches(module) and not (passes_on and _holds_another(module, matches)):
            names = path.split(".")
            plain = all(name.isidentifier() for name in names)
            return f"model.{path}" if plain else f"model.get_submodule({path!r})"
    return ""


def _is_compiled(function: object) -> bool:
    return hasattr(function, "_torchdynamo_orig_callable")


def _holds_another(module: nn.Module, matches: Callable[[nn.Module], bool]) -> bool:
    return any(matches(inner) for inner in module.modules() if inner is not module)


def package_of(module: nn.Module) -> str:
    """The class with the package that it is from, where that is not torch: "peft's Linear"."""
    kind: type[Any] = type(module)
    package = kind.__module__.partition(".")[0]
    return kind.__name__ if package in ("torch", "__main__") else f"{package}'s {kind.__name__}"
